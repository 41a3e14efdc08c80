"""Whole images as tensors, ordinary JPEG files by the quicker of two decoders.

torchvision decodes a small JPEG in a third of Pillow's time, and to the same pixels where both are built on the same
libjpeg; whether they are is tried out once a process. Everything else goes through `decoding.decode_image`, which says
what an image is: upright RGB as `pipeline("image-classification")` sees it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torchvision.io import decode_jpeg

from hf_finetune.data.images.decoding import decode_image

# Markers of a JPEG file, ITU-T T.81 table B.1.
_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended sequential and progressive, all Huffman-coded
_EXIF = 0xE1


def to_tensor(image: PIL.Image.Image) -> torch.Tensor:
    """Returns a PIL image as uint8 of shape (3, height, width), channels last in memory, without a second copy."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def decode_pixels(value: Mapping[str, Any] | str | bytes | Path | PIL.Image.Image) -> torch.Tensor:
    """Returns an image as upright RGB: uint8 of shape (3, height, width), channels last in memory.

    `value` is as in `decoding.OpenImage`. Raises `UnreadableImage`.
    """
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, bytes) and _is_ordinary_jpeg(content) and _decoders_agree():
        try:
            pixels = _decode_jpeg(content)
        except RuntimeError:
            return to_tensor(decode_image(value))  # whose errors say more
        if pixels.shape[0] in (1, 3):
            return pixels.expand(3, -1, -1)
    return to_tensor(decode_image(value))


def _decode_jpeg(content: bytes) -> torch.Tensor:
    # A copy, in a thousandth of the time of decoding: torch warns of tensors over bytes, which cannot be written to.
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))


def _is_ordinary_jpeg(content: bytes) -> bool:
    """Whether a file is a whole JPEG without EXIF, which could turn it, and of a size that Pillow would not refuse."""
    if not (content.startswith(_START) and content.endswith(_END)):
        return False
    position = len(_START)
    while position + 9 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == _EXIF:
            return False
        if marker in _FRAMES:
            height = int.from_bytes(content[position + 5 : position + 7], "big")
            width = int.from_bytes(content[position + 7 : position + 9], "big")
            return 0 < height * width <= (PIL.Image.MAX_IMAGE_PIXELS or 0)
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return False


@cache
def _decoders_agree() -> bool:
    """Whether torchvision and Pillow decode noise to the same pixels, with and without subsampled colour."""
    generator = np.random.default_rng(0)
    for subsampling in (0, 1, 2):
        file = io.BytesIO()
        noise = PIL.Image.fromarray(generator.integers(0, 256, (23, 37, 3), dtype=np.uint8))
        noise.save(file, "JPEG", subsampling=subsampling)
        if not torch.equal(_decode_jpeg(file.getvalue()), to_tensor(decode_image(file.getvalue()))):
            return False
    return True
