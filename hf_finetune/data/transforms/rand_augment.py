"""timm's RandAugment with operations that all grow with the magnitude (its `rand-m9-mstd0.5-inc1`).

RandAugment is Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019. The
operations and their strengths are `_RAND_INCREASING_TRANSFORMS` of timm's data/auto_augment.py; MMPretrain's policies
"timm_increasing" are the same. torchvision's RandAugment has other operations, and one magnitude for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

LEVELS = 10.0  # the magnitude at which an operation has its full strength
Operation = Callable[["IncreasingRandAugment", torch.Tensor, float], torch.Tensor]


class IncreasingRandAugment(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Apply random operations to a uint8 image of shape (3, height, width)."""

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 9.0,
        magnitude_std: float = 0.5,
        p: float = 0.5,
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
        fill: int | Sequence[int] = 128,
    ) -> None:
        """Check and keep the arguments.

        Args:
            num_ops: How many of the fifteen operations are drawn, with repeats.
            magnitude: The mean magnitude, 0 to 10. Each operation's is drawn from a normal distribution around it and
                clipped to 0 to 10.
            magnitude_std: The standard deviation of the magnitude.
            p: The probability that a drawn operation is applied.
            interpolation: Of rotation, shear and translation: nearest or bilinear.
            fill: The gray or RGB value, 0 to 255, of pixels that rotation, shear and translation leave empty.

        Raises:
            ValueError: An argument is outside its range.
        """
        super().__init__()
        if not 0 <= magnitude <= LEVELS or magnitude_std < 0 or not 0 <= p <= 1 or num_ops < 1:
            raise ValueError("magnitude is 0 to 10, magnitude_std at least 0, p 0 to 1 and num_ops at least 1")
        if interpolation not in (InterpolationMode.NEAREST, InterpolationMode.BILINEAR):
            raise ValueError("its interpolation is nearest or bilinear")
        self.num_ops, self.magnitude, self.magnitude_std, self.p = num_ops, magnitude, magnitude_std, p
        self.interpolation = interpolation
        self.fill = [float(fill)] if isinstance(fill, (int, float)) else [float(value) for value in fill]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image after the operations; draws come from torch's global generator."""
        for number in torch.randint(len(OPERATIONS), (self.num_ops,)).tolist():
            applies, deviation, sign = torch.rand(()), torch.randn(()), torch.rand(())
            if applies < self.p:
                magnitude = min(LEVELS, max(0.0, self.magnitude + self.magnitude_std * float(deviation)))
                strength = magnitude / LEVELS * (1 if sign < 0.5 else -1)
                image = list(OPERATIONS.values())[number](self, image, strength)
        return image

    def moved(
        self, image: torch.Tensor, translate: Sequence[float] = (0, 0), shear: Sequence[float] = (0, 0)
    ) -> torch.Tensor:
        """Return an image translated by (x, y) fractions of its sides, or sheared about its upper left corner."""
        height, width = image.shape[-2:]
        moved: torch.Tensor = functional.affine(
            image,
            angle=0.0,
            translate=[translate[0] * width, translate[1] * height],
            scale=1.0,
            shear=[math.degrees(math.atan(value)) for value in shear],
            interpolation=self.interpolation,
            fill=self.fill,
            center=[0, 0],
        )
        return moved

    def turned(self, image: torch.Tensor, degrees: float) -> torch.Tensor:
        """Return an image rotated counterclockwise about its centre."""
        rotated: torch.Tensor = functional.rotate(image, degrees, interpolation=self.interpolation, fill=self.fill)
        return rotated


def _posterize(image: torch.Tensor, strength: float) -> torch.Tensor:
    bits = max(1, 4 - int(4 * strength))
    kept: torch.Tensor = image & (256 - 2 ** (8 - bits))
    return kept


def _solarize(image: torch.Tensor, strength: float) -> torch.Tensor:
    return torch.where(image.int() >= 256 - int(256 * strength), 255 - image, image)


def _solarize_add(image: torch.Tensor, strength: float) -> torch.Tensor:
    brighter = (image.int() + int(110 * strength)).clamp_(max=255).to(image.dtype)
    return torch.where(image < 128, brighter, image)


# Each takes the transform, the image and a strength from -1 to 1; some ignore its sign.
OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda transform, image, strength: functional.autocontrast(image),
    "Equalize": lambda transform, image, strength: functional.equalize(image),
    "Invert": lambda transform, image, strength: functional.invert(image),
    "Rotate": lambda transform, image, strength: transform.turned(image, 30 * strength),
    "Posterize": lambda transform, image, strength: _posterize(image, abs(strength)),
    "Solarize": lambda transform, image, strength: _solarize(image, abs(strength)),
    "SolarizeAdd": lambda transform, image, strength: _solarize_add(image, abs(strength)),
    "Color": lambda transform, image, strength: functional.adjust_saturation(image, 1 + 0.9 * strength),
    "Contrast": lambda transform, image, strength: functional.adjust_contrast(image, 1 + 0.9 * strength),
    "Brightness": lambda transform, image, strength: functional.adjust_brightness(image, 1 + 0.9 * strength),
    "Sharpness": lambda transform, image, strength: functional.adjust_sharpness(image, 1 + 0.9 * strength),
    "ShearX": lambda transform, image, strength: transform.moved(image, shear=(0.3 * strength, 0)),
    "ShearY": lambda transform, image, strength: transform.moved(image, shear=(0, 0.3 * strength)),
    "TranslateXRel": lambda transform, image, strength: transform.moved(image, translate=(0.45 * strength, 0)),
    "TranslateYRel": lambda transform, image, strength: transform.moved(image, translate=(0, 0.45 * strength)),
}
