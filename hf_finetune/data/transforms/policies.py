"""torchvision's RandAugment, TrivialAugmentWide and AutoAugment, and timm's RandAugment, on whole batches.

The images of a batch are grouped by the operation that is drawn for them. torchvision's tables of operations and
magnitudes are read from its transforms, where they are private; a test compares each operation.
"""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from hf_finetune.data.transforms import color_arithmetic as color
from hf_finetune.data.transforms.batched import BatchTransform, Change, by_kind, in_pieces, random_offsets
from hf_finetune.data.transforms.geometry import Fill, affine_matrices, can_move, move
from hf_finetune.data.transforms.rand_augment import LEVELS, OPERATIONS
from hf_finetune.data.transforms.randomness import uniform_draws

# Images of 32 x 32 pixels are worked on 64 at a time, so that each operation finds a few.
_PIXELS = 65_536


class Operations:
    """The operations of policies on uint8 batches, with one interpolation and one fill.

    Attributes:
        by_name: For each name of torchvision's policies and timm's its change, whose values are magnitudes as there.
            `Identity` is not among them.
    """

    def __init__(self, transform: v2.Transform) -> None:
        """Read interpolation and fill from a transform."""
        self.smooth: bool = transform.interpolation == InterpolationMode.BILINEAR
        self.fill: Fill = transform.fill
        self.by_name: dict[str, Change] = {
            "ShearX": lambda images, slope: self._shear(images, slope, along_x=True),
            "ShearY": lambda images, slope: self._shear(images, slope, along_x=False),
            "TranslateX": lambda images, pixels: self._translate(images, pixels.trunc(), along_x=True),
            "TranslateY": lambda images, pixels: self._translate(images, pixels.trunc(), along_x=False),
            "Rotate": lambda images, degrees: self._move(images, affine_matrices(-degrees)),
            "Brightness": lambda images, more: color.adjust_brightness(images, 1 + more),
            "Color": lambda images, more: color.adjust_saturation(images, 1 + more),
            "Contrast": lambda images, more: color.adjust_contrast(images, 1 + more),
            "Sharpness": lambda images, more: color.adjust_sharpness(images, 1 + more),
            "Posterize": color.posterize,
            "Solarize": lambda images, threshold: color.solarize(images, 255 * threshold),
            "AutoContrast": lambda images, _: color.autocontrast(images),
            "Equalize": lambda images, _: color.equalize(images),
            "Invert": lambda images, _: color.invert(images),
        }

    def of_timm(self) -> dict[str, Change]:
        """Return the operations of `rand_augment.OPERATIONS` with their strengths from -1 to 1 as values."""
        named = self.by_name
        changes: dict[str, Change] = {
            "Rotate": lambda images, strength: named["Rotate"](images, 30 * strength),
            "Posterize": lambda images, strength: color.posterize(
                images, (4 - (4 * strength.abs()).int()).clamp(min=1)
            ),
            "Solarize": lambda images, strength: color.solarize(images, 256 - (256 * strength.abs()).int().float()),
            "SolarizeAdd": lambda images, strength: color.add_to_dark(images, (110 * strength.abs()).int()),
            "TranslateXRel": lambda images, strength: self._translate(
                images, 0.45 * images.shape[-1] * strength, along_x=True
            ),
            "TranslateYRel": lambda images, strength: self._translate(
                images, 0.45 * images.shape[-2] * strength, along_x=False
            ),
        }
        for name in ("Color", "Contrast", "Brightness", "Sharpness"):
            changes[name] = lambda images, strength, name=name: named[name](images, 0.9 * strength)  # type: ignore[misc]
        for name in ("ShearX", "ShearY"):
            changes[name] = lambda images, strength, name=name: named[name](images, 0.3 * strength)  # type: ignore[misc]
        return named | changes

    def _move(self, images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        return move(images, matrices, self.smooth, self.fill)

    def _shear(self, images: torch.Tensor, slope: torch.Tensor, along_x: bool) -> torch.Tensor:
        height, width = images.shape[-2:]
        degrees = slope.double().atan().rad2deg()
        shear = (degrees, 0.0) if along_x else (0.0, degrees)
        corner = (-width / 2, -height / 2)
        return self._move(images, affine_matrices(torch.zeros_like(slope), shear=shear, center=corner))

    def _translate(self, images: torch.Tensor, pixels: torch.Tensor, along_x: bool) -> torch.Tensor:
        shift = (pixels, 0.0) if along_x else (0.0, pixels)
        return self._move(images, affine_matrices(torch.zeros_like(pixels), translate=shift))


class _Policy(BatchTransform):
    """A policy: for each image some operations, one after another."""

    def __init__(self, transform: v2.Transform, stream: int) -> None:
        super().__init__(transform, stream)
        self.changes = self.operations()
        self._tables: dict[Any, Any] = {}

    @classmethod
    def supports(cls, transform: v2.Transform) -> bool:
        return can_move(transform)

    def operations(self) -> dict[int, Change]:
        """Return the operations by their numbers."""
        named = Operations(self.transform).by_name
        names = self.transform._AUGMENTATION_SPACE
        return {number: named[name] for number, name in enumerate(names) if name != "Identity"}

    def draw(self, keys: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the operations of each image.

        Args:
            keys: The examples' draw keys, int64 of shape (batch,).
            height: The height of the images in pixels.
            width: Their width.

        Returns:
            The numbers of the operations in their order, int64 of shape (batch, operations), where an unknown number
            leaves the image as it is; and their magnitudes, float32 of the same shape.
        """
        raise NotImplementedError

    def magnitudes(self, bins: int, height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the magnitudes of each operation, (operations, bins), and which have a random sign, (operations,)."""
        place = (bins, height, width, device)
        if place not in self._tables:
            rows, signs = [], []
            for values_of, signed in self.transform._AUGMENTATION_SPACE.values():
                values = values_of(bins, height, width)
                rows.append(torch.zeros(bins) if values is None else values.float())
                signs.append(signed)
            self._tables[place] = torch.stack(rows).to(device), torch.tensor(signs, device=device)
        found: tuple[torch.Tensor, torch.Tensor] = self._tables[place]
        return found

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return in_pieces(images, self._changed, *self.draw(keys, *images.shape[-2:]), pixels=_PIXELS)

    def _changed(self, images: torch.Tensor, kinds: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
        for kind, values in zip(kinds.unbind(1), magnitudes.unbind(1), strict=True):
            images = by_kind(images, kind, self.changes, values)
        return images


class RandAugment(_Policy):
    """Apply some operations of one magnitude."""

    def draw(self, keys: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        count = self.transform.num_ops
        table, signed = self.magnitudes(self.transform.num_magnitude_bins, height, width, keys.device)
        draws = uniform_draws(keys, self.stream, 2 * count)
        kinds = random_offsets(draws[:, :count], len(table) - 1)
        magnitudes = table[:, self.transform.magnitude][kinds]
        return kinds, torch.where(signed[kinds] & (draws[:, count:] < 0.5), -magnitudes, magnitudes)


class TrivialAugmentWide(_Policy):
    """Apply one operation of a random magnitude."""

    def draw(self, keys: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        bins = self.transform.num_magnitude_bins
        table, signed = self.magnitudes(bins, height, width, keys.device)
        kind, magnitude, sign = uniform_draws(keys, self.stream, 3)[:, :, None].unbind(1)
        kinds = random_offsets(kind, len(table) - 1)
        magnitudes = table[kinds, random_offsets(magnitude, bins - 1)]
        return kinds, torch.where(signed[kinds] & (sign < 0.5), -magnitudes, magnitudes)


class AutoAugment(_Policy):
    """Apply one of the learned pairs of operations."""

    bins = 10  # of the published policies

    def draw(self, keys: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        table, signed = self.magnitudes(self.bins, height, width, keys.device)
        numbers, chances, places = self._pairs(keys.device)
        draws = uniform_draws(keys, self.stream, 5)
        pair = random_offsets(draws[:, 0], len(numbers) - 1)
        kinds = numbers[pair]
        magnitudes = table[kinds, places[pair]]
        magnitudes = torch.where(signed[kinds] & (draws[:, 1:3] < 0.5), -magnitudes, magnitudes)
        return torch.where(draws[:, 3:5] < chances[pair], kinds, -1), magnitudes

    def _pairs(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return the operations' numbers, probabilities and bins of magnitudes, each of shape (pairs, 2)."""
        if device not in self._tables:
            names = [*self.transform._AUGMENTATION_SPACE]
            pairs = self.transform._policies
            self._tables[device] = (
                torch.tensor([[names.index(name) for name, _, _ in pair] for pair in pairs], device=device),
                torch.tensor([[chance for _, chance, _ in pair] for pair in pairs], device=device),
                torch.tensor([[place or 0 for _, _, place in pair] for pair in pairs], device=device),
            )
        found: tuple[torch.Tensor, ...] = self._tables[device]
        return found


class IncreasingRandAugment(_Policy):
    """Apply some of timm's operations, whose strengths vary around one magnitude."""

    def operations(self) -> dict[int, Change]:
        named = Operations(self.transform).of_timm()
        return {number: named[name] for number, name in enumerate(OPERATIONS)}

    def draw(self, keys: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        augment = self.transform
        draws = uniform_draws(keys, self.stream, 4 * augment.num_ops).unflatten(1, (4, augment.num_ops))
        kind, applies, deviation, sign = draws.unbind(1)
        kinds = torch.where(applies < augment.p, random_offsets(kind, len(OPERATIONS) - 1), -1)
        # The offset keeps the draw 0 finite.
        deviation = torch.special.ndtri(deviation + 2.0**-25)
        magnitudes = (augment.magnitude + augment.magnitude_std * deviation).clamp(0, LEVELS) / LEVELS
        return kinds, torch.where(sign < 0.5, magnitudes, -magnitudes)
