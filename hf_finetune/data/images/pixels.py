"""Whole images as tensors; ordinary JPEG files are decoded by the faster of two decoders.

torchvision decodes a small JPEG in a third of Pillow's time, and to the same pixels where both use the same libjpeg;
each process tests this once. Everything else is decoded by `decoding.decode_image`: upright RGB as
`pipeline("image-classification")` sees it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
import PIL.Image
import torch
from torchvision.io import decode_jpeg

from hf_finetune.data.images.bands import read_bands
from hf_finetune.data.images.decoding import AS_STORED, Decoding, ImageValue, decode_image

# Markers of a JPEG file, ITU-T T.81 table B.1.
_START, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended sequential and progressive, all Huffman-coded
_EXIF = 0xE1
_MPF = 0xE2  # of files with several images, CIPA DC-007, and of colour profiles
_TALL = 0x12  # chroma of half the height, which libjpeg enlarges differently from version to version


def to_tensor(image: PIL.Image.Image) -> torch.Tensor:
    """Return a PIL image in RGB as uint8 of shape (3, height, width), channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def decode_pixels(value: ImageValue, how: Decoding = AS_STORED) -> torch.Tensor:
    """Decode an image to upright RGB.

    Args:
        value: An image as `decoding.OpenImage` takes it.
        how: What decides the pixels beside the file.

    Returns:
        uint8 of shape (3, height, width), channels last in memory.

    Raises:
        UnreadableImage: It cannot be decoded.
    """
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, bytes) and ordinary_jpeg_size(content) is not None and _decoders_agree():
        try:
            pixels = _decode_jpeg(content)
        except RuntimeError:
            return to_tensor(decode_image(value, how))  # its errors are clearer
        if pixels.shape[0] in (1, 3):
            return pixels.expand(3, -1, -1)
    return to_tensor(decode_image(value, how))


def pixels_reader(how: Decoding) -> Callable[[ImageValue], torch.Tensor]:
    """Return what reads images: `decode_pixels`, or the values of any number of channels as they are stored.

    These are float32 of shape (channels, height, width).
    """
    if how.channels is None:
        return partial(decode_pixels, how=how)
    channels = how.channels
    return lambda value: torch.from_numpy(read_bands(value, channels))


def _decode_jpeg(content: bytes) -> torch.Tensor:
    # The copy takes a thousandth of the time of decoding. Without it torch warns that bytes cannot be written to.
    pixels: torch.Tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return pixels


def ordinary_jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Return the (height, width) in pixels of an ordinary JPEG, and None of any other file.

    It is complete, of usual sampling and a size that Pillow accepts, not turned by EXIF, and the only image of its
    file.
    """
    if not (content.startswith(_START) and content.endswith(_END)):
        return None
    position = len(_START)
    while position + 9 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == _EXIF or (marker == _MPF and content[position + 4 : position + 8] == b"MPF\0"):
            return None
        if marker in _FRAMES:
            if content[position + 11 : position + 12] == bytes([_TALL]):
                return None
            height = int.from_bytes(content[position + 5 : position + 7], "big")
            width = int.from_bytes(content[position + 7 : position + 9], "big")
            return (height, width) if 0 < height * width <= (PIL.Image.MAX_IMAGE_PIXELS or 0) else None
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None


@cache
def _decoders_agree() -> bool:
    """Whether torchvision and Pillow decode noise to the same pixels, for each kind of chroma subsampling."""
    generator = np.random.default_rng(0)
    for subsampling in (0, 1, 2):
        file = io.BytesIO()
        noise = PIL.Image.fromarray(generator.integers(0, 256, (23, 37, 3), dtype=np.uint8))
        noise.save(file, "JPEG", subsampling=subsampling)
        if not torch.equal(_decode_jpeg(file.getvalue()), to_tensor(decode_image(file.getvalue()))):
            return False
    return True
