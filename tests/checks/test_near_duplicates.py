"""Perceptual hashes and the rule that tells copies from what is only alike."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

from hf_finetune.checks.near_duplicates import near_duplicates
from hf_finetune.checks.perceptual_hash import perceptual_hashes, thumbnails


def smooth(count: int, side: int = 48, seed: int = 0) -> list[PIL.Image.Image]:
    """Random blots of colour, each image different from all others."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return [PIL.Image.fromarray(pixels).resize((side, side), PIL.Image.Resampling.BICUBIC) for pixels in coarse]


def small(images: list[PIL.Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image.resize((32, 32), PIL.Image.Resampling.BILINEAR)) for image in images])


def pairs_of(pixels: np.ndarray) -> list[list[int]]:
    colours = pixels.mean(axis=(1, 2)).astype(np.float32)
    usable = np.ones(len(pixels), bool)
    return near_duplicates(perceptual_hashes(pixels), thumbnails(pixels), colours, usable).tolist()


def saved(image: PIL.Image.Image, form: str, quality: int) -> PIL.Image.Image:
    file = io.BytesIO()
    image.save(file, form, quality=quality)
    return PIL.Image.open(file).convert("RGB")


def test_copies_that_were_saved_or_resized_anew_are_found():
    images = smooth(300)
    copies = [
        saved(images[5], "JPEG", 50),
        images[17].resize((30, 30), PIL.Image.Resampling.LANCZOS),
        saved(images[40].resize((96, 80)), "WEBP", 80),
    ]
    assert pairs_of(small([*images, *copies])) == [[5, 300], [17, 301], [40, 302]]


def test_copies_of_one_image_are_connected():
    images = smooth(60)
    pairs = pairs_of(small([*images, *(saved(images[3], "JPEG", quality) for quality in (40, 60, 80, 95))]))
    assert {row for pair in pairs for row in pair} == {3, 60, 61, 62, 63}


def test_handwritten_digits_are_alike_and_no_copies():
    """Of these 1,797 images, many are as near to each other as the copies of photos, and no two are copies."""
    digits = (load_digits().images * 15).astype(np.uint8)
    pixels = small([PIL.Image.fromarray(image).convert("RGB") for image in digits])
    flat = thumbnails(pixels).reshape(len(pixels), -1).astype(np.float32)
    flat = (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True)
    nearest = np.sort(2 - 2 * flat @ flat.T / flat.shape[1], axis=1)[:, 1] ** 0.5
    assert np.count_nonzero(nearest < 0.35) > 100
    assert pairs_of(pixels) == []


def test_another_colour_is_another_image():
    images = smooth(60)
    red, green, blue = images[0].split()
    grey = (0.299 * np.asarray(red) + 0.587 * np.asarray(green) + 0.114 * np.asarray(blue)).astype(np.uint8)
    tinted = PIL.Image.merge("RGB", [PIL.Image.fromarray(grey)] * 3)  # the same luminance
    assert abs(np.asarray(tinted).mean() - np.asarray(images[0])[..., 0].mean()) > 6
    assert pairs_of(small([*images, tinted])) == []


def test_what_has_no_contrast_is_compared_with_nothing():
    plain = np.full((4, 32, 32, 3), 128, np.uint8)
    plain[1:, 0, 0] = 130
    assert pairs_of(np.concatenate([small(smooth(20)), plain])) == []


def test_a_hash_has_the_signs_of_the_lowest_frequencies():
    """Of a horizontal cosine of one frequency, that frequency alone is far above the median, which is 0."""
    x = np.arange(32)
    wave = 127.5 + 100 * np.cos(np.pi * 3 * (2 * x + 1) / 64)
    pixels = np.repeat(np.tile(wave, (32, 1))[None, :, :, None], 3, axis=3).round().astype(np.uint8)
    bits = np.unpackbits(perceptual_hashes(pixels).astype(">u8").view(np.uint8))
    assert bits[3] == 1  # row 0, column 3 of 8 x 8
    inverted = np.unpackbits(perceptual_hashes(255 - pixels).astype(">u8").view(np.uint8))
    assert inverted[3] == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images(count):
    assert pairs_of(small(smooth(3))[:count]) == []
