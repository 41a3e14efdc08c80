"""Shards: images in any form of a Parquet column, and which errors another try may fix."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import HfHubHTTPError

from hf_finetune.data.streaming.shards import DataFile, ParquetShards, find_file, in_threads, is_temporary, read_text
from hf_finetune.errors import UserError


@pytest.mark.parametrize(
    ("column", "first"),
    [
        ([{"bytes": b"1", "path": "a.png"}] * 3, {"bytes": b"1", "path": "a.png"}),
        ([b"1"] * 3, {"bytes": b"1", "path": None}),
        (["a.png"] * 3, {"bytes": None, "path": "a.png"}),
        ([None] * 3, {"bytes": None, "path": None}),
    ],
)
def test_images_in_any_form(tmp_path, column, first) -> None:
    pq.write_table(pa.table({"image": column, "label": [5, 6, 7]}), tmp_path / "a.parquet")
    shards = ParquetShards([find_file(str(tmp_path / "a.parquet"))], "image", "label")
    ((images, labels),) = shards.read(0, 1)
    assert images == [first] * 2 and labels.to_pylist() == [6, 7]


def test_shards_are_numbered_through_all_files(tmp_path) -> None:
    for number, rows in enumerate((5, 0, 7)):
        table = pa.table({"image": pa.array([b"x"] * rows, pa.binary()), "label": pa.array(range(rows), pa.int64())})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=3)
    files = [find_file(str(tmp_path / f"{number}.parquet")) for number in range(3)]
    shards = ParquetShards(files, "image", "label")
    assert [count for count in shards.rows.tolist() if count] == [3, 2, 3, 3, 1]
    read = [label for shard in range(len(shards.rows)) for _, labels in shards.read(shard, 0) for label in labels]
    assert [label.as_py() for label in read] == [*range(5), *range(7)]
    assert [labels.to_pylist() for labels in shards.labels()] == [[*range(5)], [], [*range(7)]]


def test_threads_keep_the_order() -> None:
    def wait(file: DataFile) -> int:
        time.sleep(0.01 * (5 - file.size))
        return file.size

    assert list(in_threads(wait, [DataFile("", size) for size in range(5)], "Waiting")) == list(range(5))


def test_what_is_not_there_has_no_text(tmp_path) -> None:
    assert read_text(str(tmp_path / "none.json")) is None
    (tmp_path / "some.json").write_text("{}")
    assert read_text(str(tmp_path / "some.json")) == "{}"


def http_error(status: int) -> Exception:
    return HfHubHTTPError("no", response=SimpleNamespace(status_code=status, headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (http_error(503), True),
        (http_error(429), True),
        (http_error(404), False),
        (http_error(401), False),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (OSError("Input/output error"), False),
        (pa.ArrowInvalid("not Parquet"), False),
        (UserError("ours"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_only_errors_of_the_network_pass(error, temporary) -> None:
    assert is_temporary(error) is temporary
