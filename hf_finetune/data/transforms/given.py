"""Training transforms that a Python program gives as a function of one image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import PIL.Image
import torch
from torch import nn

from hf_finetune.data.images.pixels import to_tensor
from hf_finetune.data.transforms.build import TrainTransforms
from hf_finetune.errors import UserError

ImageFunction = Callable[[torch.Tensor], Any]


class GivenTransform(nn.Module):
    """Calls a function on each training image, and checks that batches can be made of what it returns."""

    def __init__(self, function: ImageFunction, channels: int | None = None) -> None:
        super().__init__()
        self.function = function
        self._channels, self._dtype = (3, torch.uint8) if channels is None else (channels, torch.float32)
        self._shape: tuple[int, ...] | None = None

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the changed image.

        Args:
            image: uint8 of shape (3, height, width), or float32 with the channels of images that are read as they are
                stored.

        Raises:
            UserError: Where the function returns anything but an image of this kind, or images that differ in size.
        """
        result = self.function(image)
        if isinstance(result, PIL.Image.Image):
            result = to_tensor(result.convert("RGB"))
        if not isinstance(result, torch.Tensor) or result.ndim != 3 or result.shape[0] != self._channels:
            kind = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            pil = " or PIL" if self._channels == 3 else ""
            shape_of_one = f"({self._channels}, height, width)"
            raise UserError(f"train_transforms returned {kind}; return an image as a tensor {shape_of_one}{pil}.")
        if result.dtype != self._dtype:
            wanted = str(self._dtype).removeprefix("torch.")
            raise UserError(
                f"train_transforms returned {result.dtype}; return {wanted}: images are normalized after it, by the"
                " image processor's figures."
            )
        shape = tuple(result.shape)
        self._shape = self._shape or shape
        if shape != self._shape:
            raise UserError(
                f"train_transforms returned images of {self._shape[1]} x {self._shape[2]} and {shape[1]} x {shape[2]}"
                " pixels; end it with a crop or a resize to one size, such as v2.RandomResizedCrop(224)."
            )
        return result


def transforms_of_function(function: ImageFunction, channels: int | None = None) -> TrainTransforms:
    """Return the transforms of a run that was given a function of one image.

    What the function draws from torch's generator is keyed by the example, so it is the same in a resumed run.

    Args:
        function: Takes an image as `GivenTransform` does.
        channels: How many channels images have that are read as they are stored; None for RGB.
    """
    return TrainTransforms(single=(GivenTransform(function, channels),), batch=())
