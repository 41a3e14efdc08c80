"""Large images are decoded no larger than what is kept of them needs.

The crop is drawn first, from the size in the image's header; then a JPEG is decoded at the smallest scale of 1, 1/2,
1/4 and 1/8 at which the crop still covers the pixels wanted, and crop and resize finish from there. At scale 1 the
result is torchvision's own; at a reduced scale the crop's edges are rounded to the reduced image's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import PIL.Image
import torch
from torchvision.transforms import v2

from hf_finetune.data.images.decoding import OpenImage
from hf_finetune.data.images.pixels import to_tensor
from hf_finetune.data.transforms.batch import RandomResizedCrop

_REDUCTIONS = (8, 4, 2)
_OPEN_AT_ONCE = 32  # their crops are drawn together; each holds a file open until it is decoded


class ReducedRandomResizedCrop:
    """torchvision's RandomResizedCrop on images that are still encoded, with the draws of the batch transform."""

    def __init__(self, transform: v2.RandomResizedCrop, stream: int) -> None:
        self.transform = transform
        self._drawing = RandomResizedCrop(transform, stream)

    def __call__(self, values: Sequence[Any], keys: torch.Tensor) -> list[torch.Tensor]:
        """Returns the crops of images as `OpenImage` takes them: uint8 (3, height, width), channels last in memory.

        `keys` are the samples' draw keys, int64 (batch,). Raises `UnreadableImage`.
        """
        crops = []
        # Decoders let go of Python's lock. In a loader's worker torch has one thread, and so has this.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for start in range(0, len(values), _OPEN_AT_ONCE):
                with ExitStack() as stack:
                    chunk = slice(start, start + _OPEN_AT_ONCE)
                    images = [stack.enter_context(OpenImage(value)) for value in values[chunk]]
                    heights = torch.tensor([opened.height for opened in images])
                    widths = torch.tensor([opened.width for opened in images])
                    boxes = torch.stack(self._drawing.boxes(heights, widths, keys[chunk]), dim=1).tolist()
                    for crop in pool.map(self._crop, images, boxes):
                        resized = v2.functional.resize(
                            to_tensor(crop), self.transform.size, self.transform.interpolation, antialias=True
                        )
                        crops.append(resized)
        return crops

    def _crop(self, opened: OpenImage, box: Sequence[int]) -> PIL.Image.Image:
        """Returns the box (top, left, height, width) of an image, at the scale at which it is decoded."""
        top, left, height, width = box
        image = opened.decode(_reduction(height, width, *self.transform.size))
        vertical, horizontal = image.height / opened.height, image.width / opened.width
        rows = round(top * vertical), round((top + height) * vertical)
        columns = round(left * horizontal), round((left + width) * horizontal)
        return image.crop((columns[0], rows[0], columns[1], rows[1]))


class ReducedResize:
    """torchvision's Resize on images that are still encoded."""

    def __init__(self, transform: v2.Resize) -> None:
        self.transform = transform

    def __call__(self, values: Sequence[Any], keys: torch.Tensor) -> list[torch.Tensor]:
        """Returns the resized images; see `ReducedRandomResizedCrop`. Nothing is drawn from `keys`."""
        resized = []
        for value in values:
            with OpenImage(value) as opened:
                height, width = self._target(opened.height, opened.width)
                image = opened.decode(_reduction(opened.height, opened.width, height, width))
            resized.append(
                v2.functional.resize(to_tensor(image), [height, width], self.transform.interpolation, antialias=True)
            )
        return resized

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if len(self.transform.size) == 2:
            return tuple(self.transform.size)
        (side,) = self.transform.size
        return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


def _reduction(height: int, width: int, target_height: int, target_width: int) -> int:
    """Returns by how much a box's sides can shrink before it holds fewer pixels, on either side, than are wanted."""
    most = min(height / target_height, width / target_width)
    return next((reduction for reduction in _REDUCTIONS if reduction <= most), 1)
