"""Folders whose files are named by class: what is found in a name, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.sources.file_names import read_named_files
from hf_finetune.data.sources.open import open_source
from hf_finetune.errors import UserError
from tests.helpers.folders import touch, write_images

_PATTERN = r"^(\w+?)_\d+"


def test_the_group_is_the_class(tmp_path: Path) -> None:
    touch(tmp_path, "pug_1.jpg", "great_dane_12.JPG", "more/pug_2.png", "Thumbs.db", "._pug_3.jpg", "notes.txt")
    raw = read_named_files(tmp_path, _PATTERN)
    train = raw.splits["train"]
    names = train.features["label"].names
    assert [
        (Path(image["path"]).name, names[label]) for image, label in zip(train["image"], train["label"], strict=True)
    ] == [
        ("great_dane_12.JPG", "great_dane"),
        ("pug_2.png", "pug"),
        ("pug_1.jpg", "pug"),
    ]
    assert raw.notes == ["1 files are not used, hidden or not images: notes.txt."]
    assert read_named_files(tmp_path, r"_(\d)").splits["train"].features["label"].names == ["1", "2"]


def test_splits_above_the_files(tmp_path: Path) -> None:
    write_images(tmp_path, "train/cat_1.png", "train/dog_2.png", "val/dog_3.png")
    data = load_image_dataset(DataArguments(dataset=str(tmp_path), label_from_name=_PATTERN), seed=0)
    assert {role: split["label"][:] for role, split in data.splits.items()} == {"train": [0, 1], "validation": [1]}
    assert data.label_names == ["cat", "dog"]


def test_files_that_have_vanished_keep_their_place(tmp_path: Path) -> None:
    touch(tmp_path, "a_1.png", "b_1.png")
    train = read_named_files(tmp_path, _PATTERN, ["a_2.png", "b_1.png"]).splits["train"]
    assert [Path(image["path"]).name for image in train["image"]] == ["a_1.png", "a_2.png", "b_1.png"]


@pytest.mark.parametrize("pattern", [_PATTERN, r"^(cat)?"])
def test_names_without_a_class_are_counted(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "cat_1.png", *(f"{number}.png" for number in range(7)))
    with pytest.raises(UserError, match=r"finds no class in 7 of 8 file names: 0\.png, .*, 4\.png and 2 more;"):
        read_named_files(tmp_path, pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(cat", r"'\(cat' is no regular expression: .*; use one group for the class, such as"),
        (r"\w+_\d+", r"has no groups; use one group"),
        (r"(\w+)_(\d+)", r"has 2 groups; use one group .*, and \(\?:\.\.\.\) for other parentheses"),
    ],
)
def test_expressions_that_say_no_class(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataArguments(dataset="x", label_from_name=pattern)


def test_where_it_does_not_apply(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="label_from_name is for a folder of images, and digits is none"):
        open_source(DataArguments(dataset="digits", label_from_name=_PATTERN))
    with pytest.raises(UserError, match="label_from_name is for a folder of images, which is not streamed"):
        DataArguments(dataset="digits", label_from_name=_PATTERN, streaming=True)
    with pytest.raises(UserError, match="label_from_name is for a folder of images, and dataset is an object"):
        load_image_dataset(
            DataArguments(label_from_name=_PATTERN), seed=0, dataset=open_source(DataArguments(dataset="digits"))[0]
        )
    with pytest.raises(UserError, match="has no images; label_from_name is for a folder"):
        read_named_files(tmp_path, _PATTERN)


def test_a_flat_folder_is_answered_with_the_flag(tmp_path: Path) -> None:
    touch(tmp_path, "cat_1.png", "dog_1.png")
    with pytest.raises(
        UserError, match=r"or, if the names of the files begin with the class, .* --label_from_name '\^"
    ):
        open_source(DataArguments(dataset=str(tmp_path)))
