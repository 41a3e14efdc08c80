"""Streamed datasets: what is found out of shards before training, from the disk and from a Hub, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Value

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.streaming.build import load_streamed_dataset
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.data.streaming.order import Arrangement
from hf_finetune.data.streaming.split import StreamedSplit
from hf_finetune.errors import UserError
from tests.helpers.streamed import CLASSES, images, write_lengths, write_parquet, write_tars


def load(folder, num_labels=None, seed=1, **settings) -> ImageDataset:
    return load_streamed_dataset(DataArguments(dataset=str(folder), streaming=True, **settings), seed, num_labels)


def rows_of(split: StreamedSplit) -> list:
    return [row for shard in range(len(split.counts)) for row in split.read(shard)]


def labels_of(split: StreamedSplit) -> list[int]:
    return [row.label for row in rows_of(split)]


# ---- Parquet ----


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


# ---- tars ----

LABELS = {
    "cls": lambda class_id: {"cls": b"%d" % class_id},
    "txt": lambda class_id: {"txt": b"class %d\n" % class_id},
    "json": lambda class_id: {"json": b'{"label": %d, "file": "a.png"}' % class_id},
    "both": lambda class_id: {"cls": b"%d" % class_id, "json": b"{}", "txt": b"a caption"},
}


@pytest.mark.parametrize("kind", LABELS)
def test_tars(tmp_path, kind) -> None:
    write_tars(tmp_path, "train", 40, 3, LABELS[kind])
    write_tars(tmp_path, "test", 9, 1, LABELS[kind])
    data = load(tmp_path, validation_fraction=0)
    assert data.label_names == (["class 0", "class 1", "class 2"] if kind == "txt" else ["0", "1", "2"])
    encoded, labels = images(40)
    rows = rows_of(data.splits["train"])
    assert [row.label for row in rows] == labels and [row.image["bytes"] for row in rows] == encoded
    assert [row.sample_index for row in rows] == list(range(40))
    assert rows[39].image["path"] == "train-0002.tar/000039.png"
    assert data.splits["train"].counts.tolist() == [14, 13, 13]
    assert [row.sample_index for row in data.splits["train"].read(1, 5)] == list(range(19, 27))


def test_an_entry_of_json_may_be_the_label(tmp_path) -> None:
    write_tars(tmp_path, "train", 40, 2, lambda class_id: {"json": b'{"kind": "k%d", "label": 1}' % class_id})
    assert load(tmp_path, label_column="json.kind").label_names == ["k0", "k1", "k2"]


def compress_tars(folder: Path, module: Any, suffix: str) -> None:
    for tar in folder.glob("*.tar"):
        content = module.compress(tar.read_bytes())
        tar.unlink()
        tar.with_name(tar.name + suffix).write_bytes(content)


@pytest.mark.parametrize(("module", "suffix"), [(gzip, ".gz"), (bz2, ".bz2"), (lzma, ".xz"), (gzip, "")])
def test_compressed_tars_are_unpacked_as_they_are_read(tmp_path, datasets_cache, module, suffix) -> None:
    plain = load(write_tars(tmp_path / "plain", "train", 40, 3), validation_fraction=0)
    compress_tars(write_tars(tmp_path / "packed", "train", 40, 3), module, suffix)
    packed = load(tmp_path / "packed", validation_fraction=0)
    split = packed.splits["train"]
    assert split.counts.tolist() == plain.splits["train"].counts.tolist() and packed.label_names == plain.label_names
    for shard, first in ((0, 0), (1, 5), (2, 12)):
        rows, expected = (list(one.splits["train"].read(shard, first)) for one in (packed, plain))
        assert [(row.image["bytes"], row.label) for row in rows] == [
            (row.image["bytes"], row.label) for row in expected
        ]
    first = min((tmp_path / "packed").iterdir())
    assert len(load(first, validation_fraction=0).splits["train"]) == 14


def test_a_compressed_tar_is_read_from_front_to_back_once(tmp_path, datasets_cache, monkeypatch) -> None:
    compress_tars(write_tars(tmp_path, "train", 40, 1), gzip, ".gz")
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: pytest.fail("unpacked from the beginning again"))
    assert len(list(load(tmp_path, validation_fraction=0).splits["train"].read(0, 3))) == 37


def test_a_compressed_tar_that_ends_early_is_named(tmp_path, datasets_cache) -> None:
    compress_tars(write_tars(tmp_path, "train", 12, 1), gzip, ".gz")
    packed = next(tmp_path.iterdir())
    packed.write_bytes(packed.read_bytes()[:-2000])
    with pytest.raises(
        UserError, match=rf"split train cannot be read: {re.escape(packed.name)}: Compressed file ended"
    ):
        load(tmp_path)


def test_a_tar_that_zstandard_has_compressed_is_named(tmp_path, datasets_cache) -> None:
    write_tars(tmp_path, "train", 12, 1)
    tar = next(tmp_path.glob("*.tar"))
    tar.write_bytes(b"\x28\xb5\x2f\xfd" + tar.read_bytes())
    with pytest.raises(UserError, match=rf"^{re.escape(tar.name)} is compressed with Zstandard; unpack it to a \.tar"):
        load(tmp_path)


def test_a_file_that_is_no_tar_is_named(tmp_path, datasets_cache) -> None:
    write_tars(tmp_path, "train", 12, 2)
    _, second = sorted(tmp_path.glob("*.tar"))
    second.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(UserError, match=rf"split train cannot be read: {re.escape(second.name)}: "):
        load(tmp_path)


def test_names_of_classes_in_the_card_of_tars(tmp_path) -> None:
    write_tars(tmp_path, "train", 40, 2)
    names = "\n".join(f"        '{number}': {name}" for number, name in enumerate(CLASSES))
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: png\n    dtype: image\n  - name: cls\n    dtype:\n"
        f"      class_label:\n        names:\n{names.replace('        ', '          ')}\n---\n"
    )
    assert load(tmp_path).label_names == list(CLASSES)


def test_tars_without_labels_or_images_are_refused(tmp_path) -> None:
    write_tars(tmp_path / "a", "train", 6, 1, lambda class_id: {})
    with pytest.raises(UserError, match="no column of split train holds labels; the columns are png"):
        load(tmp_path / "a")
    write_tars(tmp_path / "b", "train", 6, 1)
    with pytest.raises(UserError, match=r'label_column: .* has no column "name"'):
        load(tmp_path / "b", label_column="name")


# ---- a Hub ----


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server of datasets, to which `datasets` and huggingface_hub in this process are turned."""
    import huggingface_hub

    from tests.helpers.dataset_server import DatasetServer

    with DatasetServer({"me/pets": tmp_path / "pets"}) as server:
        (tmp_path / "pets").mkdir()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        yield server


def test_parquet_of_the_hub(hub, tmp_path) -> None:
    write_parquet(hub.folders["me/pets"], "train", 2000, files=4, row_group=100)
    write_parquet(hub.folders["me/pets"], "test", 50)
    data = load("me/pets", validation_fraction=0)
    assert (data.source, data.revision) == ("me/pets", "5" * 40)
    assert {role: len(split) for role, split in data.splits.items()} == {"train": 2000, "test": 50}
    train = data.splits["train"]
    sent, size = sum(hub.sent.values()), sum(path.stat().st_size for path in hub.files("me/pets").values())
    assert sent < 0.7 * size, "footers, of at most 64 kB each, and the first images"
    hub.sent.clear()
    rows = list(train.read(7, 50))
    assert [row.sample_index for row in rows] == list(range(750, 800))
    assert rows[0].image["bytes"] == images(2000)[0][750]
    assert 0 < sum(hub.sent.values()) < 1.2 * size / 20, "one row group of twenty, whatever lies before it"
    assert not [request for request in hub.requests if "datasets-server" in request]


def test_a_resumed_run_does_not_read_from_the_start(hub) -> None:
    """Of two lanes of a thousand images, in blocks of a hundred: one that is read again, and those that are left."""
    write_parquet(hub.folders["me/pets"], "train", 2000, files=4, row_group=50)
    split = load("me/pets", validation_fraction=0).splits["train"]

    def read_from(position: int) -> tuple[list[int], int]:
        batches = StreamedBatches(split, NoStage())
        batches.arrange(Arrangement(2000, 20, lanes=2, block_size=100, seed=1))
        hub.sent.clear()
        batch = [
            row.sample_index for start in range(position, 2000, 20) for row in batches.rows(range(start, start + 20))
        ]
        return batch, sum(hub.sent.values())

    whole, whole_bytes = read_from(0)
    assert sorted(whole) == list(range(2000))
    for begin in (1000, 1700, 1900):
        rest, rest_bytes = read_from(begin)
        assert rest == whole[begin:]
        # What is left, of each lane less than a block, and row groups that are begun at both ends.
        assert rest_bytes < whole_bytes * (2000 - begin + 2 * 100 + 4 * 50) / 2000 * 1.1


class NoStage:
    epoch = 0


def test_reading_continues_where_the_hub_fails_for_a_while(hub) -> None:
    write_parquet(hub.folders["me/pets"], "train", 60)
    data = load("me/pets", validation_fraction=0)
    hub.failures = 1
    assert [row.sample_index for row in rows_of(data.splits["train"])] == list(range(60))
    assert not hub.failures


def test_a_hub_that_goes_away_ends_in_one_line(hub, monkeypatch) -> None:
    write_parquet(hub.folders["me/pets"], "train", 60)
    data = load("me/pets", validation_fraction=0)
    pauses: list[float] = []
    monkeypatch.setattr("hf_finetune.data.streaming.split.time.sleep", pauses.append)  # huggingface_hub's own as well
    hub.close()
    with pytest.raises(
        UserError, match=r"^me/pets: split train cannot be read any further: .*; the same command resumes from"
    ):
        rows_of(data.splits["train"])
    assert {1, 4, 15, 60, 120} <= set(pauses)


def test_tars_of_the_hub_need_their_lengths(hub) -> None:
    write_tars(hub.folders["me/pets"], "train", 40, 3)
    with pytest.raises(UserError, match=r"not known before they are read; put _info.json beside them"):
        load("me/pets")


def test_tars_of_the_hub_need_their_classes(hub) -> None:
    write_lengths(write_tars(hub.folders["me/pets"], "train", 40, 3), train=[14, 13, 13])
    with pytest.raises(UserError, match="use --num_labels N for labels from 0 to N-1"):
        load("me/pets")
    data = load("me/pets", num_labels=3, validation_fraction=0)
    assert data.label_names == ["0", "1", "2"]
    assert labels_of(data.splits["train"]) == images(40)[1]


def test_classes_beyond_the_stated_number_are_named(hub) -> None:
    write_lengths(write_tars(hub.folders["me/pets"], "train", 40, 1), train=[40])
    with pytest.raises(UserError, match="row 2 of split train .* has the label 2, which is none of the 2 classes"):
        load("me/pets", num_labels=2)


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
