"""Images without labels: what paths name, in their order, read a few at a time; and the rows of a dataset."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import datasets
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_finetune.config.data import DataArguments
from hf_finetune.data.dataset_rows import dataset_rows
from hf_finetune.data.image_list import ListedImages, write_list
from hf_finetune.errors import UserError


def png(level: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("L", (2, 2), level).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def listed(folder: Path, *paths: Path, **settings: str) -> ListedImages:
    write_list(paths, folder / "list", **settings)
    return ListedImages(folder / "list")


def contents(images: ListedImages, rows: range | None = None) -> list[bytes | None]:
    return [value["bytes"] for _, value in images.read(rows or range(len(images)))]


def test_files_folders_tars_and_tables_are_one_list(tmp_path):
    (tmp_path / "folder").mkdir()
    for level in (1, 2):
        (tmp_path / "folder" / f"{level}.png").write_bytes(png(level))
    (tmp_path / "0.png").write_bytes(png(0))
    write_tar(tmp_path / "a.tar", {"x.png": png(3), "x.cls": b"1", "._y.png": b"", "deep/y.png": png(4)})
    rows = [{"bytes": png(level), "path": None} for level in range(5, 105)]
    pq.write_table(pa.table({"label": [0] * 100, "image": rows}), tmp_path / "t.parquet", row_group_size=30)
    images = listed(tmp_path, *(tmp_path / name for name in ("0.png", "folder", "a.tar", "t.parquet")))
    assert contents(images) == [png(level) for level in range(105)]
    names = [str(name) for name, _ in images.read(range(6))]
    expected = ("0.png", "folder/1.png", "folder/2.png", "a.tar/x.png", "a.tar/deep/y.png", "t.parquet:0")
    assert names == [f"{tmp_path}/{name}" for name in expected]
    again = pickle.loads(pickle.dumps(images))  # for a worker that is not forked
    for rows in (range(60, 70), range(80, 105), range(66, 68), range(100, 101), range(7)):
        assert contents(images, rows) == contents(again, rows) == [png(level) for level in rows]
    assert listed(tmp_path, tmp_path / "folder").digest != images.digest


def test_a_column_of_bytes_is_chosen_where_there_are_two(tmp_path):
    pq.write_table(pa.table({"a": [png(1)], "b": [png(2)]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="has a, b of bytes; use --image_column"):
        listed(tmp_path, tmp_path / "t.parquet")
    assert contents(listed(tmp_path, tmp_path / "t.parquet", image_column="b")) == [png(2)]


def test_what_vanishes_later_is_an_unreadable_image(tmp_path):
    write_tar(tmp_path / "a.tar", {"x.png": png(3)})
    pq.write_table(pa.table({"a": [png(1)]}), tmp_path / "t.parquet")
    (tmp_path / "0.png").write_bytes(png(0))
    names = ("a.tar", "t.parquet", "0.png")
    images = listed(tmp_path, *(tmp_path / name for name in names))
    for name in names:
        os.unlink(tmp_path / name)
    assert contents(images) == [None, None, None]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.tgz", "cannot be read as a tar: .*; a compressed tar is not read: unpack it"),
        ("empty.tar", "holds no images"),
        ("bad.parquet", "cannot be read as Parquet"),
        ("words.parquet", "has the columns word; use --image_column"),
        ("shards", "holds no images; name its files, such as .*shards/1.tar"),
    ],
)
def test_mistakes(tmp_path, name, message):
    write_tar(tmp_path / "a.tgz", {"x.png": png(3)})
    write_tar(tmp_path / "empty.tar", {"x.txt": b""})
    (tmp_path / "bad.parquet").write_text("no table")
    pq.write_table(pa.table({"word": ["a"]}), tmp_path / "words.parquet")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "1.tar").touch()
    with pytest.raises(UserError, match=message):
        listed(tmp_path, tmp_path / name)


def test_the_rows_of_a_dataset(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    for split, levels in {"train": range(3), "test": range(3, 7)}.items():
        rows = {"image": [{"bytes": png(level), "path": None} for level in levels], "label": ["a"] * len(levels)}
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{split}.parquet")
    data = DataArguments(dataset=str(tmp_path))
    test, train = dataset_rows(data, None), dataset_rows(data, "train")
    assert [value["bytes"] for _, value in test.read(range(1, 4))] == [png(level) for level in (4, 5, 6)]
    assert [name for name, _ in train.read(range(2))] == [f"{tmp_path}:train:0", f"{tmp_path}:train:1"]
    assert test.digest == dataset_rows(data, "test").digest != train.digest
    with pytest.raises(UserError, match="--split: there is no split other: .* has test, train"):
        dataset_rows(data, "other")
