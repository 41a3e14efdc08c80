"""Streamed datasets of Parquet: what is found out of shards before training, and what is refused of any layout."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Value

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.streaming.build import load_streamed_dataset
from hf_finetune.errors import UserError
from tests.helpers.streamed import CLASSES, images, labels_of, load, rows_of, write_parquet


def test_parquet_is_what_it_is_without_streaming(tmp_path) -> None:
    write_parquet(tmp_path, "train", 103, files=3, row_group=10)
    write_parquet(tmp_path, "validation", 20)
    write_parquet(tmp_path, "test", 25, files=2, row_group=4)
    streamed = load(tmp_path)
    stored = load_image_dataset(DataArguments(dataset=str(tmp_path)), 1)
    assert streamed.label_names == stored.label_names and streamed.split_names == stored.split_names
    for role, split in stored.splits.items():
        assert len(streamed.splits[role]) == len(split)
        for row, expected in zip(rows_of(streamed.splits[role]), split, strict=True):
            assert (row.label, row.sample_index) == (expected["label"], expected["sample_index"])
            assert row.image["bytes"] == expected["image"]["bytes"]
    assert len(streamed.splits["train"].counts) == 12, "each row group is a shard"


def test_part_of_a_row_group_is_read(tmp_path) -> None:
    split = load(write_parquet(tmp_path, "train", 300, row_group=150), validation_fraction=0).splits["train"]
    for first in (0, 1, 63, 64, 65, 149):
        rows = list(split.read(1, first))
        assert [row.sample_index for row in rows] == list(range(150 + first, 300))
        assert rows[0].image["bytes"] == images(300)[0][150 + first]


@pytest.mark.parametrize(
    ("labels", "feature", "names"),
    [
        (["cat", "ant", "bee"], Value("string"), ["ant", "bee", "cat"]),
        ([40, 3, 7], Value("int64"), ["3", "7", "40"]),
        ([2, 0, 1], ClassLabel(names=["z", "y", "x"]), ["z", "y", "x"]),
        ([True, False, True], Value("bool"), ["false", "true"]),
    ],
)
def test_labels_of_any_kind(tmp_path, labels, feature, names) -> None:
    write_parquet(tmp_path, "train", 30, files=2, labels=labels * 10, feature=feature)
    data = load(tmp_path, validation_fraction=0)
    assert data.label_names == names
    stored = load_image_dataset(DataArguments(dataset=str(tmp_path), validation_fraction=0), 1)
    assert data.label_names == stored.label_names
    assert labels_of(data.splits["train"]) == list(stored.splits["train"]["label"])


def test_classes_of_other_splits_are_matched_by_name(tmp_path) -> None:
    write_parquet(tmp_path, "train", 30)
    backwards = ClassLabel(names=list(CLASSES)[::-1])
    write_parquet(tmp_path, "test", 6, labels=[0, 1, 2, 2, 1, 0], feature=backwards)
    assert labels_of(load(tmp_path).splits["test"]) == [2, 1, 0, 0, 1, 2]


def test_hidden_labels_are_not_used(tmp_path) -> None:
    write_parquet(tmp_path, "train", 30)
    write_parquet(tmp_path, "test", 6, labels=[-1] * 6)
    data = load(tmp_path)
    assert "test" not in data.splits
    assert "Split test is not used as test: it has no labels (those of its first rows)." in data.notes


def test_train_must_be_there_and_labelled(tmp_path) -> None:
    write_parquet(tmp_path, "test", 30)
    with pytest.raises(UserError, match="has no split to train on: it has test; use --train_split NAME"):
        load(tmp_path)
    arguments = DataArguments(dataset=str(tmp_path), streaming=True)
    assert list(load_streamed_dataset(arguments, 1, require_train=False).splits) == ["test"]
    write_parquet(tmp_path, "train", 30, labels=[-1] * 30)
    with pytest.raises(UserError, match="split train has no labels; nothing can be learned from it"):
        load(tmp_path)


def test_a_label_that_train_has_not_is_named_when_it_is_met(tmp_path) -> None:
    write_parquet(tmp_path, "train", 30, labels=["a", "b", "c"] * 10, feature=Value("string"))
    write_parquet(tmp_path, "test", 9, labels=["a", "b", "c", "a", "b", "c", "a", "d", "c"], feature=Value("string"))
    with pytest.raises(UserError, match=r"row 7 of split test \(counted from 0\) has the label 'd', .* a, b, c; fix"):
        labels_of(load(tmp_path).splits["test"])


@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_label_of_train_stops_the_run(tmp_path, missing) -> None:
    labels = ["a", "b"] * 15
    labels[23] = missing
    write_parquet(tmp_path, "train", 30, files=3, labels=labels, feature=Value("string"))
    with pytest.raises(UserError, match="the label in row 23 of split train .* is missing"):
        load(tmp_path)


def test_one_class_alone_is_refused(tmp_path) -> None:
    write_parquet(tmp_path, "train", 30, labels=["a"] * 30, feature=Value("string"))
    with pytest.raises(UserError, match=r"has 1 class \(a\); a classifier needs two"):
        load(tmp_path)


def test_one_file_is_a_training_split(tmp_path) -> None:
    write_parquet(tmp_path, "pets", 30)
    data = load(next(tmp_path.glob("*.parquet")))
    assert data.split_names["train"] == "train" and len(data.splits["train"]) + len(data.splits["validation"]) == 30


def test_a_part_is_held_out_and_noted(tmp_path) -> None:
    write_parquet(tmp_path, "train", 300, files=2)
    data = load(tmp_path, validation_fraction=0.2)
    numbers = {role: [row.sample_index for row in rows_of(split)] for role, split in data.splits.items()}
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(300))
    assert any("They are not stratified" in note for note in data.notes)
    assert any("There is no test split" in note for note in data.notes)
    again = load(tmp_path, validation_fraction=0.2)
    assert numbers["validation"] == [row.sample_index for row in rows_of(again.splits["validation"])]


def test_limits_take_whole_shards(tmp_path) -> None:
    write_parquet(tmp_path, "train", 100, row_group=10)
    write_parquet(tmp_path, "test", 30)
    data = load(tmp_path, validation_fraction=0, max_train_samples=25, max_eval_samples=7)
    assert {role: len(rows_of(split)) for role, split in data.splits.items()} == {"train": 25, "test": 7}
    assert data.split_names["train"] == "train (25 of 100, from 3 of 10 shards)"
    with pytest.raises(UserError, match="max_train_samples is 0"):
        load(tmp_path, max_train_samples=0)


def test_an_unreadable_image_among_the_first_stops_the_run(tmp_path, monkeypatch) -> None:
    encoded, labels = images(30)
    monkeypatch.setattr(
        "tests.helpers.streamed.images", lambda count: ([b"no image", *encoded[1:count]], labels[:count])
    )
    write_parquet(tmp_path, "train", 30)
    with pytest.raises(UserError, match=r"an image cannot be read: row 0 of train \(not an image\)"):
        load(tmp_path, validation_fraction=0)
    assert len(load(tmp_path, validation_fraction=0, on_bad_image="skip").splits["train"]) == 30


def test_pages_among_the_first_images_are_counted(tmp_path, monkeypatch) -> None:
    encoded, labels = images(80)
    page, pages = PIL.Image.open(io.BytesIO(encoded[0])), io.BytesIO()
    page.save(pages, "TIFF", save_all=True, append_images=[page])
    monkeypatch.setattr(
        "tests.helpers.streamed.images", lambda count: ([pages.getvalue(), *encoded[1:count]], labels[:count])
    )
    write_parquet(tmp_path, "train", 80)
    notes = load(tmp_path, validation_fraction=0).notes
    assert "1 of the 64 images looked at has more than one page or frame; the first is used." in notes


def test_a_named_dataset_is_known_to_be_uniform(shared) -> None:
    copy = shared / "hub" / "datasets" / "uoft-cs" / "cifar10"
    arguments = DataArguments(dataset="cifar10", dataset_path=str(copy), streaming=True)
    data = load_streamed_dataset(arguments, 1)
    assert data.uniform and data.source == "uoft-cs/cifar10, local copy"
    assert {role: len(split) for role, split in data.splits.items() if role == "test"} == {"test": 10_000}
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 50_000


# ---- refusals ----


def test_other_layouts_are_refused(image_folder, tmp_path) -> None:
    with pytest.raises(UserError, match="is neither in Parquet files nor in WebDataset tars .*; leave --streaming out"):
        load(image_folder)
    table = tmp_path / "table.csv"
    table.write_text("image,label\na.png,cat\n")
    with pytest.raises(UserError, match="is neither in Parquet files nor in WebDataset tars"):
        load(table)
    with pytest.raises(UserError, match="streaming: digits is built in and fits into memory"):
        load("digits")


def test_settings_that_contradict_streaming_are_refused() -> None:
    with pytest.raises(UserError, match="decode_cache is always, but with streaming no image is kept"):
        DataArguments(streaming=True, decode_cache="always")
    with pytest.raises(UserError, match="shuffle_buffer_size is 0"):
        DataArguments(shuffle_buffer_size=0)


def test_a_damaged_file_is_named(tmp_path) -> None:
    write_parquet(tmp_path, "train", 300, files=2)
    file = sorted(tmp_path.glob("*.parquet"))[1]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read: "):
        load(tmp_path)


def test_damage_within_a_file_is_found_when_it_is_read(tmp_path) -> None:
    write_parquet(tmp_path, "train", 300)
    data = load(tmp_path, validation_fraction=0)
    file = next(tmp_path.glob("*.parquet"))
    content = np.frombuffer(file.read_bytes(), np.uint8).copy()
    content[len(content) // 3 : len(content) // 2] = 255
    file.write_bytes(content.tobytes())
    try:
        rows = rows_of(data.splits["train"])
    except UserError as error:
        assert "cannot be read any further" in str(error)
    else:  # Parquet without checksums: the images themselves are broken, and found out when they are decoded
        assert [row.image["bytes"] for row in rows] != images(300)[0]
