"""Streamed tars: what is found out of them before training, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from pathlib import Path
from typing import Any

import pytest

from hf_finetune.errors import UserError
from tests.helpers.streamed import CLASSES, images, load, rows_of, write_tars

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
