"""The built-in digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.recipe import load_recipe
from hf_finetune.data.catalog import CATALOG
from hf_finetune.data.images.decoding import decode_image
from hf_finetune.data.sources.digits import read_digits


@pytest.fixture(scope="module")
def splits() -> dict:
    return read_digits().splits


def test_splits_are_those_of_the_catalog(splits: dict) -> None:
    assert tuple(splits["train"].features["label"].names) == CATALOG["digits"].label_names
    assert {split: len(dataset) for split, dataset in splits.items()} == CATALOG["digits"].split_sizes
    assert np.bincount(splits["test"]["label"]).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_pixels_are_scaled_to_bytes(splits: dict) -> None:
    digits = load_digits()
    for dataset in splits.values():
        for image, label in zip(dataset["image"], dataset["label"], strict=True):
            row = int(image["path"].removeprefix("digit_").removesuffix(".png"))
            assert label == digits.target[row]
            pixels = np.asarray(decode_image(image))[:, :, 0]
            np.testing.assert_array_equal(pixels, np.rint(digits.images[row] * 255 / 16))


def test_statistics_of_the_recipe() -> None:
    values = load_recipe("_base_/datasets/digits", argument_fields()).values
    pixels = load_digits().images * 255 / 16
    assert values["image_mean"] == pytest.approx([pixels.mean()] * 3, abs=0.005)
    assert values["image_std"] == pytest.approx([pixels.std()] * 3, abs=0.005)


def test_test_split_is_always_the_same(splits: dict) -> None:
    again = read_digits().splits
    assert again["test"]["image"][:] == splits["test"]["image"][:]
    assert again["test"]._fingerprint == splits["test"]._fingerprint
