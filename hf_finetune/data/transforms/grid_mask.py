"""GridMask, which leaves out squares at equal distances: for one image, and for whole batches.

Chen et al., "GridMask data augmentation", 2020, arXiv:2001.04086. Where random boxes (`RandomErasing`, Cutout) may hide
an object whole or not at all, a grid of squares hides about the same part of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.transforms import v2

from hf_finetune.data.transforms.batched import BatchTransform, channel_values, in_pieces, random_offsets
from hf_finetune.data.transforms.randomness import uniform_draws

_DRAWS = 5  # of an image: whether, the unit, its offset along x and y, the rotation


class GridMask(v2.Transform):
    """Fill squares of a grid that is shifted and rotated at random, in a uint8 image of shape (3, height, width)."""

    def __init__(
        self,
        p: float = 0.5,
        unit: Sequence[float] = (0.43, 1.0),
        ratio: float = 0.6,
        rotate: float = 360.0,
        fill: int | Sequence[int] = 128,
    ) -> None:
        """Check and keep the arguments.

        Args:
            p: The probability that an image is masked. The authors raise it from epoch to epoch.
            unit: From which to which part of the image's shorter side a unit of the grid is long: one square and the
                space to the next. The paper takes 96 to 224 pixels of 224.
            ratio: The part of a unit's length that is space. 1 - (1 - ratio)^2 of the pixels are kept.
            rotate: The grid is rotated by 0 to so many degrees.
            fill: The gray or RGB value, 0 to 255, of the squares. The paper's is the mean of the images.

        Raises:
            ValueError: An argument is outside its range.
        """
        super().__init__()
        if len(unit) != 2 or not 0 < unit[0] <= unit[1]:
            raise ValueError("unit is two parts of the shorter side above 0, the lower first, such as [0.43, 1.0]")
        if not (0 <= p <= 1 and 0 < ratio < 1 and 0 <= rotate <= 360):
            raise ValueError("p is 0 to 1, ratio between 0 and 1, and rotate 0 to 360")
        self.p, self.unit, self.ratio, self.rotate = p, tuple(unit), ratio, rotate
        self.fill = [float(fill)] if isinstance(fill, (int, float)) else [float(value) for value in fill]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the masked image; draws come from torch's global generator."""
        return self.masked(image[None], torch.rand(1, _DRAWS))[0]

    def masked(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Return masked images.

        Args:
            images: uint8 of shape (batch, 3, height, width).
            draws: Uniform draws in [0, 1), float32 of shape (batch, 5), on the device of the images.
        """
        height, width = images.shape[-2:]
        whether, length, x, y, turn = draws.unbind(1)
        least, most = (max(2, round(part * min(height, width))) for part in self.unit)
        unit = least + random_offsets(length, most - least)
        offsets = random_offsets(x, unit - 1), random_offsets(y, unit - 1)
        holes = grid_holes(height, width, unit, offsets, self.ratio, turn * self.rotate)
        holes &= (whether < self.p)[:, None, None]
        return torch.where(holes[:, None], channel_values(self.fill, images)[:, None, None], images)


def grid_holes(
    height: int,
    width: int,
    unit: torch.Tensor,
    offsets: tuple[torch.Tensor, torch.Tensor],
    ratio: float,
    degrees: torch.Tensor,
) -> torch.Tensor:
    """Return which pixels are in a square of a grid, bool of shape (batch, height, width).

    Args:
        height: The height of the images in pixels.
        width: Their width.
        unit: The length of a unit in pixels, int64 of shape (batch,).
        offsets: Where the space of a unit begins, as x and y in pixels from the image's centre, each (batch,).
        ratio: The part of a unit that is space, which is rounded to whole pixels.
        degrees: How far the grid is rotated counterclockwise about the image's centre, float32 (batch,).
    """
    space = (unit * ratio + 0.5).floor()
    rows = torch.arange(height, device=unit.device)[:, None] + (1 - height) / 2
    columns = torch.arange(width, device=unit.device)[None, :] + (1 - width) / 2
    turn = degrees.deg2rad()[:, None, None]
    sine, cosine = turn.sin(), turn.cos()
    places = cosine * columns - sine * rows, sine * columns + cosine * rows
    # The centres of whole pixels, in parts of a unit: they are half a pixel from all edges, so rounding is harmless.
    shifts, edge = [((offset - 0.5) / unit)[:, None, None] for offset in offsets], (space / unit)[:, None, None]
    parts = [place.floor_().div_(unit[:, None, None]).sub_(shift) for place, shift in zip(places, shifts, strict=True)]
    inside = [part.sub_(part.floor()) >= edge for part in parts]
    return inside[0] & inside[1]


class BatchGridMask(BatchTransform):
    """Mask some images of a batch, each with a grid of its own."""

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return in_pieces(images, self.transform.masked, uniform_draws(keys, self.stream, _DRAWS))
