"""Damaged images by the thousand: each is decoded, or refused by name in one line."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import strategies as st
from torchvision.transforms import v2

from hf_finetune.data.images.decoding import decode_image, read_header
from hf_finetune.data.images.pixels import decode_pixels
from hf_finetune.data.transforms.randomness import draw_keys
from hf_finetune.data.transforms.reduced_decoding import ReducedRandomResizedCrop, ReducedResize
from tests.helpers.fuzzing import EXAMPLES, damaged, fuzz


def images() -> list[bytes]:
    """Noise of 37 x 23 pixels in the formats and modes that people have."""
    generator = np.random.default_rng(0)
    noise = PIL.Image.fromarray(generator.integers(0, 256, (23, 37, 3), dtype=np.uint8))
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    deep = PIL.Image.fromarray(generator.integers(0, 2**16, (23, 37), dtype=np.uint16))
    forms = [
        (noise, "JPEG", {}),
        (noise.convert("L"), "JPEG", {}),
        (noise.convert("CMYK"), "JPEG", {}),
        (noise, "JPEG", {"progressive": True, "exif": turned}),
        (noise, "PNG", {}),
        (noise.convert("RGBA"), "PNG", {"exif": turned}),
        (noise.convert("P"), "PNG", {"transparency": 3}),
        (deep, "PNG", {}),
        (noise.convert("P"), "GIF", {}),
        (noise.convert("P"), "GIF", {"save_all": True, "append_images": [noise.convert("P").rotate(90)]}),
        (noise, "WEBP", {}),
        (noise, "WEBP", {"lossless": True, "exif": turned}),
        (noise, "BMP", {}),
        (noise.convert("1"), "BMP", {}),
        (noise, "TIFF", {}),
        (noise, "TIFF", {"compression": "tiff_lzw"}),
        (noise, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (deep, "TIFF", {}),
        (noise.convert("F"), "TIFF", {}),
        (noise, "PPM", {}),
    ]
    encoded = []
    for image, form, options in forms:
        file = io.BytesIO()
        image.save(file, form, **options)
        encoded.append(file.getvalue())
    return encoded


IMAGES = images()
INPUTS = st.one_of(damaged(st.sampled_from(IMAGES)), damaged(st.sampled_from(IMAGES)), st.binary(max_size=64))
CROP = ReducedRandomResizedCrop(v2.RandomResizedCrop(8, antialias=True), stream=0)
RESIZE = ReducedResize(v2.Resize([8, 8], antialias=True))
KEYS = draw_keys(0, 0, torch.arange(1))


def check_header(content: bytes) -> None:
    height, width = read_header({"bytes": content, "path": None}).size
    assert height > 0 and width > 0


def check_whole(content: bytes) -> None:
    image = decode_image({"bytes": content, "path": None})
    assert image.mode == "RGB" and np.asarray(image).shape == (image.height, image.width, 3)


def check_pixels(content: bytes) -> None:
    pixels = decode_pixels({"bytes": content, "path": None})
    assert pixels.dtype == torch.uint8 and pixels.ndim == 3 and len(pixels) == 3


def check_reduced(content: bytes) -> None:
    for reduced in (CROP, RESIZE):
        (pixels,) = reduced([{"bytes": content, "path": None}], KEYS)
        assert pixels.dtype == torch.uint8 and pixels.shape == (3, 8, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", [check_header, check_whole, check_pixels, check_reduced])
@pytest.mark.parametrize("examples", EXAMPLES)
def test_a_damaged_image_is_decoded_or_refused(examples, check):
    fuzz(check, INPUTS, examples)


@pytest.mark.parametrize("content", IMAGES)
def test_the_undamaged_images_are_decoded(content):
    for check in (check_header, check_whole, check_pixels, check_reduced):
        check(content)
