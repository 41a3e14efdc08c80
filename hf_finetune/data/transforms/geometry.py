"""torchvision's rotations, affine and perspective transforms on whole batches, with a matrix for each image.

Where a pixel of the result comes from is computed in pixels, not in the units of `grid_sample`. So a nearest pixel
differs from torchvision's only where the place is halfway between two pixels to about 1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from torchvision.transforms import InterpolationMode, v2

from hf_finetune.data.transforms.batched import (
    BatchTransform,
    between,
    by_kind,
    channel_values,
    in_pieces,
    on_cpu,
    random_offsets,
)
from hf_finetune.data.transforms.color_arithmetic import to_levels, to_uint8
from hf_finetune.data.transforms.randomness import uniform_draws

Fill = float | Sequence[float] | None


def affine_matrices(
    angle: torch.Tensor,
    translate: Sequence[torch.Tensor | float] = (0.0, 0.0),
    scale: torch.Tensor | float = 1.0,
    shear: Sequence[torch.Tensor | float] = (0.0, 0.0),
    center: Sequence[float] = (0.0, 0.0),
) -> torch.Tensor:
    """Return the matrices from places of the result to places of the image, as `functional.affine` computes them.

    Args:
        angle: Clockwise rotations in degrees, of shape (batch,).
        translate: Shifts along x and y in pixels, each a number or of shape (batch,).
        scale: Factors of the size, a number or of shape (batch,).
        shear: Shears along x and y in degrees, each a number or of shape (batch,).
        center: Where the rotation's centre is, as x and y in pixels from the image's centre.

    Returns:
        float64 of shape (batch, 6): a, b, c, d, e, f of (ax + by + c, dx + ey + f), from the image's centre.
    """
    turn = angle.double().deg2rad()
    zero = torch.zeros_like(turn)
    shear_x, shear_y = ((zero + value).deg2rad() for value in shear)
    a = torch.cos(turn - shear_y) / torch.cos(shear_y)
    b = -(a * torch.tan(shear_x) + torch.sin(turn))
    c = torch.sin(turn - shear_y) / torch.cos(shear_y)
    d = torch.cos(turn) - c * torch.tan(shear_x)
    a, b, c, d = (value / scale for value in (d, -b, -c, a))
    x, y = center[0] + translate[0], center[1] + translate[1]
    return torch.stack([a, b, center[0] - a * x - b * y, c, d, center[1] - c * x - d * y], dim=1)


def _places(matrices: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the column and the row that each pixel of the results comes from, float32 of shape (batch, height, width).

    Matrices with eight numbers divide by gx + hy + 1 and count from the image's upper left corner.
    """
    perspective = matrices.shape[1] == 8
    offsets = (0.5, 0.5) if perspective else ((1 - width) / 2, (1 - height) / 2)
    x = torch.arange(width, device=matrices.device) + offsets[0]
    y = torch.arange(height, device=matrices.device) + offsets[1]

    def plane(a: int, b: int, constant: torch.Tensor) -> torch.Tensor:
        along_x, along_y = matrices[:, a, None] * x, matrices[:, b, None] * y + constant[:, None]
        return along_x.float()[:, None, :] + along_y.float()[:, :, None]

    if not perspective:
        return plane(0, 1, matrices[:, 2] - offsets[0]), plane(3, 4, matrices[:, 5] - offsets[1])
    divisor = plane(6, 7, torch.ones_like(matrices[:, 0]))
    columns, rows = plane(0, 1, matrices[:, 2]), plane(3, 4, matrices[:, 5])
    return columns.div_(divisor).sub_(0.5), rows.div_(divisor).sub_(0.5)


def move(images: torch.Tensor, matrices: torch.Tensor, smooth: bool, fill: Fill) -> torch.Tensor:
    """Move each image by its matrix.

    Args:
        images: uint8 of shape (batch, channels, height, width).
        matrices: float64 of shape (batch, 6) as of `affine_matrices`, or (batch, 8) for perspectives.
        smooth: Whether to interpolate bilinearly; otherwise the nearest pixel is taken.
        fill: The value of pixels from outside the image, one or one for each channel; None is torchvision's for 0,
            which differs in the interpolated pixels at the border.
    """
    columns, rows = _places(matrices, *images.shape[-2:])
    return _interpolated(images, columns, rows, fill) if smooth else _nearest(images, columns, rows, fill)


def _nearest(images: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor, fill: Fill) -> torch.Tensor:
    channels, height, width = images.shape[1:]
    # With a border of one pixel all places outside have a pixel to take. Numbers of pixels are exact in float32.
    padded = functional.pad(images.contiguous(), [1, 1, 1, 1])
    if fill:
        values = channel_values(_fill_list(fill, channels), images)[:, None, None]
        for border in (padded[..., :1, :], padded[..., -1:, :], padded[..., :1], padded[..., -1:]):
            border.copy_(values)
    columns, rows = columns.round_().clamp_(-1, width), rows.round_().clamp_(-1, height)
    places = columns.add_(rows, alpha=width + 2).add_(width + 3).to(torch.int32).flatten(1)
    if on_cpu(images):
        # Plane by plane, because a lookup in several planes at once is five times slower.
        pairs = zip(padded.flatten(2), places, strict=True)
        moved = [plane.index_select(0, place) for image, place in pairs for plane in image]
        return torch.stack(moved).view(images.shape)
    return padded.flatten(2).gather(2, places.long()[:, None].expand(-1, channels, -1)).view(images.shape)


def _interpolated(images: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor, fill: Fill) -> torch.Tensor:
    height, width = images.shape[-2:]
    grid = torch.stack([columns * (2 / width) + (1 / width - 1), rows * (2 / height) + (1 / height - 1)], dim=-1)
    levels = functional.grid_sample(to_levels(images), grid, mode="bilinear", align_corners=False)
    if fill is not None:
        # As torchvision does it: the pixels outside count as 0, and the fill is blended in once more.
        inside = (columns + 1).clamp_(0, 1).mul_(columns.neg_().add_(width).clamp_(0, 1))
        inside.mul_((rows + 1).clamp_(0, 1)).mul_(rows.neg_().add_(height).clamp_(0, 1))
        values = channel_values(_fill_list(fill, images.shape[1]), levels)[:, None, None]
        levels = levels.sub_(values).mul_(inside[:, None]).add_(values)
    return to_uint8(levels.round_())


def _fill_list(fill: Fill, channels: int) -> list[float]:
    values = [0.0] if fill is None else [fill] if isinstance(fill, (int, float)) else [*fill]
    return values * channels if len(values) == 1 else values


def can_move(transform: v2.Transform) -> bool:
    """Return whether a batch can be moved with a transform's `interpolation` and `fill`."""
    known = (InterpolationMode.NEAREST, InterpolationMode.BILINEAR)
    return transform.interpolation in known and not isinstance(transform.fill, dict)


class RandomRotation(BatchTransform):
    """Rotate each image by a random angle."""

    @classmethod
    def supports(cls, transform: v2.Transform) -> bool:
        return can_move(transform) and not getattr(transform, "expand", False)

    def matrices(self, keys: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Draw the matrix of each image, see `move`."""
        angle = between(uniform_draws(keys, self.stream, 1)[:, 0], *self.transform.degrees)
        return affine_matrices(-angle, center=self.center(height, width))

    def center(self, height: int, width: int) -> tuple[float, float]:
        """Return the centre of the rotation as x and y in pixels from the image's centre."""
        x, y = self.transform.center or (width / 2, height / 2)
        return x - width / 2, y - height / 2

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return in_pieces(images, self._moved, self.matrices(keys, *images.shape[-2:]))

    def _moved(self, images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        smooth = self.transform.interpolation == InterpolationMode.BILINEAR
        return move(images, matrices, smooth, self.transform.fill)


class RandomAffine(RandomRotation):
    """Rotate, shift, scale and shear each image by random amounts."""

    def matrices(self, keys: torch.Tensor, height: int, width: int) -> torch.Tensor:
        affine = self.transform
        angle, x, y, scale, shear_x, shear_y = uniform_draws(keys, self.stream, 6).unbind(1)
        shift_x, shift_y = affine.translate or (0.0, 0.0)
        shears = [*(affine.shear or (0.0, 0.0)), 0.0, 0.0]
        return affine_matrices(
            between(angle, *affine.degrees),
            [
                between(x, -shift_x * width, shift_x * width).round(),
                between(y, -shift_y * height, shift_y * height).round(),
            ],
            between(scale, *(affine.scale or (1.0, 1.0))).double(),
            [between(shear_x, *shears[:2]).double(), between(shear_y, *shears[2:4]).double()],
            self.center(height, width),
        )


class RandomPerspective(RandomRotation):
    """Move the corners of some images by random amounts, as if seen from another side."""

    def corners(self, keys: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return where the corners go, from the upper left one clockwise, as x and y, float64 (batch, 4, 2)."""
        draws = uniform_draws(keys, self.stream, 9)[:, 1:].unflatten(1, (4, 2))
        reach_x, reach_y = (int(self.transform.distortion_scale * (side // 2)) for side in (width, height))
        x, y = random_offsets(draws[..., 0], reach_x), random_offsets(draws[..., 1], reach_y)
        columns = torch.cat([x[:, :1], width - 1 - x[:, 1:3], x[:, 3:]], dim=1)
        rows = torch.cat([y[:, :2], height - 1 - y[:, 2:]], dim=1)
        return torch.stack([columns, rows], dim=2).double()

    def matrices(self, keys: torch.Tensor, height: int, width: int) -> torch.Tensor:
        ends = self.corners(keys, height, width)
        x, y = ends.unbind(2)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        # Where the corners come from.
        from_x = torch.stack([zero[:, 0], *([one[:, 0] * (width - 1)] * 2), zero[:, 0]], dim=1)
        from_y = torch.stack([*([zero[:, 0]] * 2), *([one[:, 0] * (height - 1)] * 2)], dim=1)
        equations_x = torch.stack([x, y, one, zero, zero, zero, -from_x * x, -from_x * y], dim=2)
        equations_y = torch.stack([zero, zero, zero, x, y, one, -from_y * x, -from_y * y], dim=2)
        # The check for errors would make the CPU wait for an accelerator.
        solution, _ = torch.linalg.solve_ex(
            torch.cat([equations_x, equations_y], dim=1), torch.cat([from_x, from_y], dim=1)[..., None]
        )
        return solution[..., 0]

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        drawn = (uniform_draws(keys, self.stream, 1)[:, 0] < self.transform.p).long()

        def changed(some: torch.Tensor, those: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
            return by_kind(some, those, {1: self._moved}, matrices)

        return in_pieces(images, changed, drawn, self.matrices(keys, *images.shape[-2:]))
