"""The range of values of images with more than 8 bits: found, said, refused, and used everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.images import value_range
from hf_finetune.data.images.decoding import Decoding
from hf_finetune.data.images.value_range import FoundValues, choose_range
from hf_finetune.errors import UserError


def found(low: float, high: float, *kinds: str, whole: bool = True) -> FoundValues:
    return FoundValues(low, high, whole, frozenset(kinds or ["16 bits"]), 40)


FLOATS = {"whole": False}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (found(0, 200), (0, 255)),
        (found(1014, 1326), (0, 4095)),
        (found(0, 4095), (0, 4095)),
        (found(0, 4096), (0, 65535)),
        (found(3, 65535), (0, 65535)),
        (found(0, 65535, "16 bits", "32 bits"), (0, 65535)),
        (found(0.0, 1.0, "floating point", **FLOATS), (0, 1)),
        (found(-0.03, 1.02, "floating point", **FLOATS), (0, 1)),
        (found(-4.0, 259.5, "floating point", **FLOATS), (0, 255)),
        (found(0.0, 255.0, "floating point"), (0, 255)),
        (found(0.0, 3000.0, "floating point"), (0, 4095)),
    ],
)
def test_a_natural_range_is_taken_and_said(values: FoundValues, expected: tuple[float, float]) -> None:
    chosen, note = choose_range(values, None, "scans")
    assert chosen == expected
    assert f"scaled as --value_range {expected[0]} {expected[1]}" in note and "\n" not in note
    assert f"{values.low:g} to {values.high:g} found in 40 images" in note


@pytest.mark.parametrize(
    "values",
    [
        found(-1024, 3071, "32 bits"),
        found(0, 70000, "32 bits"),
        found(0, 1),
        found(0.0, 37.5, "floating point", **FLOATS),
        found(-1.0, 1.0, "floating point", **FLOATS),
        found(0.0, 4095.0, "16 bits", "floating point"),
    ],
)
def test_an_unclear_range_is_refused_with_the_values(values: FoundValues) -> None:
    with pytest.raises(UserError, match=r"^scans: [^\n]*--value_range LOW HIGH[^\n]*$") as error:
        choose_range(values, None, "scans")
    assert f"values {values.low:g} to {values.high:g}" in str(error.value)
    assert choose_range(values, (-1000, 1000), "scans")[0] == (-1000, 1000)


def test_what_a_stated_range_clips_and_leaves_unused_is_said() -> None:
    assert "clipped" in choose_range(found(0, 4000), (0, 1000), "scans")[1]
    assert "clipped" not in choose_range(found(0, 4000), (0, 4095), "scans")[1]
    assert "fill 16 of the 256 levels" in choose_range(found(1000, 1256), (0, 4095), "scans")[1]
    assert choose_range(None, (0, 4095), "scans") == ((0, 4095), "")


def write(folder: Path, split: str, kind: str, number: int, pixels: np.ndarray, suffix: str = "png") -> None:
    path = folder / split / kind / f"{number}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


@pytest.fixture
def scans(tmp_path: Path, datasets_cache: Path) -> Path:
    """A folder of images of 12 bits in 16, and one of 8 bits in each class."""
    for split, brightest in (("train", 1300), ("test", 60000)):
        for number, kind in enumerate(("high", "low")):
            write(tmp_path, split, kind, 0, np.full((4, 4), 250, np.uint8))
            for image in range(1, 4):
                write(tmp_path, split, kind, image, np.full((4, 4), brightest - 100 * number - image, np.uint16))
    return tmp_path


def test_images_of_train_alone_decide(scans: Path) -> None:
    data = load_image_dataset(DataArguments(dataset=str(scans), validation_fraction=0), seed=0)
    assert data.wide_values == FoundValues(1197, 1299, True, frozenset(["16 bits"]), 6)
    # The same from the headers that are kept.
    again = load_image_dataset(DataArguments(dataset=str(scans), validation_fraction=0), seed=0)
    assert again.wide_values == data.wide_values


def test_a_seeded_sample_is_read(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_range, "_SAMPLE", 3)
    arguments = DataArguments(dataset=str(scans), validation_fraction=0)
    values = [load_image_dataset(arguments, seed=seed).wide_values for seed in (0, 0, 1, 2)]
    assert values[0] == values[1] and len(set(values)) > 1
    assert all(found is not None and found.images == 3 for found in values)


def test_images_of_8_bits_are_not_read(tmp_path: Path, datasets_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write(tmp_path, "train", "ab"[number % 2], number, np.full((4, 4), number, np.uint8))
    monkeypatch.setattr(value_range, "find_values", None)
    assert load_image_dataset(DataArguments(dataset=str(tmp_path), validation_fraction=0), seed=0).wide_values is None


def test_dark_images_that_differ_are_not_the_same_image(tmp_path: Path, datasets_cache: Path) -> None:
    for number, split in enumerate(("train", "test")):
        for kind in "ab":
            write(tmp_path, split, kind, 0, np.full((4, 4), 1030 + 2 * number + (kind == "a"), np.uint16))
    data = load_image_dataset(DataArguments(dataset=str(tmp_path), validation_fraction=0), seed=0)
    assert not any("two splits" in note for note in data.notes)


@pytest.mark.parametrize("stated", [[4095, 0], [0], [0, 1, 2], [0, float("inf")], [5, 5]])
def test_a_range_that_is_none(stated: list[float]) -> None:
    with pytest.raises(UserError, match="^value_range is [^\n]*; use two numbers"):
        DataArguments(value_range=stated)


def test_the_range_is_part_of_how_images_are_decoded() -> None:
    # What names the caches of decoded images.
    assert str(Decoding(value_range=(0, 4095))) != str(Decoding())
