"""Decoding of large images at a reduced scale, for a first transform that crops or shrinks them.

The crop is drawn from the size in the image's header. Then a JPEG is decoded at the smallest scale of 1, 1/2, 1/4 and
1/8 at which the crop still has as many pixels as are wanted, and is cropped and resized from there. At scale 1 the
result is torchvision's; at a reduced scale the edges of the crop are rounded to pixels of the reduced image.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import PIL.Image
import torch
from torchvision.transforms import v2

from hf_finetune.data.images.decoding import AS_STORED, Decoding, OpenImage, reduction_for
from hf_finetune.data.images.pixels import to_tensor
from hf_finetune.data.transforms.batch import RandomResizedCrop
from hf_finetune.data.transforms.letterbox import Letterbox, check_room

_OPEN_AT_ONCE = 32  # images whose crops are drawn together; each keeps a file open until it is decoded


class ReducedRandomResizedCrop:
    """torchvision's RandomResizedCrop on encoded images, with the draws of the batch transform."""

    def __init__(self, transform: v2.RandomResizedCrop, stream: int) -> None:
        """Wrap a transform; see `BatchTransform`."""
        self.transform = transform
        self._drawing = RandomResizedCrop(transform, stream)

    def __call__(self, values: Sequence[Any], keys: torch.Tensor, how: Decoding = AS_STORED) -> list[torch.Tensor]:
        """Decode, crop and resize images.

        Args:
            values: Images as `OpenImage` takes them.
            keys: The examples' draw keys, int64 of shape (batch,).
            how: What decides the pixels beside the files.

        Returns:
            uint8 tensors of shape (3, height, width), channels last in memory.

        Raises:
            UnreadableImage: An image cannot be decoded.
        """
        crops = []
        # Decoders release Python's lock. In a loader's worker torch has one thread, and so has this pool.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for start in range(0, len(values), _OPEN_AT_ONCE):
                with ExitStack() as stack:
                    chunk = slice(start, start + _OPEN_AT_ONCE)
                    images = [stack.enter_context(OpenImage(value)) for value in values[chunk]]
                    heights = torch.tensor([opened.height for opened in images])
                    widths = torch.tensor([opened.width for opened in images])
                    boxes = torch.stack(self._drawing.boxes(heights, widths, keys[chunk]), dim=1).tolist()
                    for crop in pool.map(partial(self._crop, how), images, boxes):
                        resized = v2.functional.resize(
                            to_tensor(crop), self.transform.size, self.transform.interpolation, antialias=True
                        )
                        crops.append(resized)
        return crops

    def _crop(self, how: Decoding, opened: OpenImage, box: Sequence[int]) -> PIL.Image.Image:
        """Return the box (top, left, height, width) of an image, at the scale at which it is decoded."""
        top, left, height, width = box
        image = opened.decode(reduction_for(height, width, *self.transform.size), how)
        vertical, horizontal = image.height / opened.height, image.width / opened.width
        rows = round(top * vertical), round((top + height) * vertical)
        columns = round(left * horizontal), round((left + width) * horizontal)
        return image.crop((columns[0], rows[0], columns[1], rows[1]))


class ReducedResize:
    """torchvision's Resize on encoded images."""

    def __init__(self, transform: v2.Resize) -> None:
        self.transform = transform

    def __call__(self, values: Sequence[Any], keys: torch.Tensor, how: Decoding = AS_STORED) -> list[torch.Tensor]:
        """Decode and resize images; see `ReducedRandomResizedCrop`. `keys` are not used."""
        resized = []
        for value in values:
            with OpenImage(value) as opened:
                height, width = self._target(opened.height, opened.width)
                image = opened.decode(reduction_for(opened.height, opened.width, height, width), how)
            resized.append(
                v2.functional.resize(to_tensor(image), [height, width], self.transform.interpolation, antialias=True)
            )
        return resized

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if len(self.transform.size) == 2:
            height, width = self.transform.size
            return height, width
        (side,) = self.transform.size
        return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


class ReducedLetterbox:
    """`Letterbox` on encoded images."""

    def __init__(self, transform: Letterbox) -> None:
        self.transform = transform

    def __call__(self, values: Sequence[Any], keys: torch.Tensor, how: Decoding = AS_STORED) -> list[torch.Tensor]:
        """Decode and letterbox images; see `ReducedRandomResizedCrop`. `keys` are not used."""
        framed = []
        for value in values:
            with OpenImage(value) as opened:
                height, width = opened.height, opened.width
                check_room(value, height, width, self.transform.size)
                image = opened.decode(reduction_for(height, width, *self.transform.fitted(height, width)), how)
            framed.append(self.transform.resized(to_tensor(image), height, width))
        return framed
