"""Tables: formats, splits, and malformed ones."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value

from hf_finetune.config.data import DataArguments
from hf_finetune.data.sources.open import open_source
from hf_finetune.data.sources.raw import ROWS_OF_BATCH
from hf_finetune.data.sources.table import find_split_tables, read_split_tables, read_table
from hf_finetune.errors import UserError

_ROWS = [{"image": "cats/1.jpg", "label": "cat"}, {"image": "dogs/1, left.jpg", "label": "dog"}]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, rows: list[dict] = _ROWS) -> Path:
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix.lower() in (".csv", ".tsv"):
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(separator.join(f'"{value}"' for value in line) + "\n" for line in lines))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.tsv", "t.jsonl", "t.json", "t.parquet"])
def test_formats(name: str, tmp_path: Path) -> None:
    raw = read_table(write(tmp_path / name))
    assert list(raw.splits) == ["train"]
    assert raw.splits["train"].to_list() == _ROWS
    assert raw.folder == tmp_path


def test_json_file_of_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl").rename(tmp_path / "t.json")
    assert read_table(path).splits["train"].to_list() == _ROWS


def test_spreadsheet_csv_with_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfimage,label\r\ncats/1.jpg,1\r\n")
    assert read_table(tmp_path / "t.csv").splits["train"].to_list() == [{"image": "cats/1.jpg", "label": 1}]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_split_column(name: str, tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "label": n % 2, "split": "val" if n == 2 else "train"} for n in range(5)]
    raw = read_table(write(tmp_path / name, rows))
    assert {split: dataset["image"][:] for split, dataset in raw.splits.items()} == {
        "train": ["0.jpg", "1.jpg", "3.jpg", "4.jpg"],
        "val": ["2.jpg"],
    }
    write(tmp_path / "t.jsonl", [{**rows[0]}, {**rows[1], "split": None}])
    with pytest.raises(UserError, match=r"row 1 \(counted from 0\) names no split in column split"):
        read_table(tmp_path / "t.jsonl")


def test_tables_named_like_splits(tmp_path: Path) -> None:
    for name in ("train.csv", "val.jsonl", "test-00000-of-00002.parquet", "test-00001-of-00002.parquet", "other.csv"):
        write(tmp_path / name)
    assert list(find_split_tables(tmp_path)) == ["test", "train", "val"]
    raw = read_split_tables(tmp_path)
    assert {split: len(dataset) for split, dataset in raw.splits.items()} == {"test": 4, "train": 2, "val": 2}
    write(tmp_path / "train.tsv")
    with pytest.raises(UserError, match=r"has train\.csv and train\.tsv, which would both be split train"):
        read_split_tables(tmp_path)


def test_fingerprint_is_stable(tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    first, again = (read_table(tmp_path / "t.csv").splits["train"]._fingerprint for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        (
            "t.csv",
            "image,label\n\na.jpg,cat\nb, c.jpg,dog\n",
            r"t\.csv, line 4: 3 values where the first line names 2",
        ),
        ("t.tsv", "image\tlabel\na.jpg\n", r"t\.tsv, line 2: 1 values where"),
        ("t.csv", "", r"t\.csv cannot be read: Empty CSV file\."),
        ("t.csv", "image,label\n", r"t\.csv has no rows"),
        ("t.csv", "image,label,label\na.jpg,0,1\n", r't\.csv has 2 columns named "label"; give each a name'),
        ("t.tsv", "\t\n", r't\.tsv has 2 columns named ""'),
        ("t.csv", "ima\0ge,label\na.jpg,0\n", r"t\.csv names a column 'ima\\x00ge', which is not text; save"),
        ("t.jsonl", '{"label": [null, null]}\n', r"t\.jsonl has columns that a dataset cannot hold"),
        ("t.json", '[{"image": 9223372036854775808}]', r"t\.json cannot be read as a list .*: Python int too large"),
        ("t.csv", "image,label\na.jpg,caf\xe9\n", r"t\.csv, line 2: not UTF-8 text"),
        (
            "t.jsonl",
            '{"image": "a.jpg"}\n\n{"image": b.jpg}\n',
            r"t\.jsonl, line 3: not a JSON object: Expecting value",
        ),
        ("t.jsonl", '{"image": "a.jpg"}\n["b.jpg"]\n', r"t\.jsonl, line 2: not a JSON object: it is not an object"),
        ("t.jsonl", '{"label": 1}\n{"label": "cat"}\n', r"t\.jsonl cannot be read: JSON parse error: Column"),
        (
            "t.json",
            '[{"image": "a.jpg"},\n{"image" "b.jpg"}]',
            r"t\.json cannot be read .*: Expecting ':' delimiter: line 2",
        ),
        ("t.json", "[1, 2]", r"t\.json cannot be read as a list of JSON objects"),
        ("t.parquet", "not Parquet", r"t\.parquet cannot be read as Parquet"),
    ],
)
def test_malformed_tables(name: str, contents: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(contents, encoding="latin-1")
    with pytest.raises(UserError, match=message) as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["split", "image"])
def test_text_of_a_parquet_table_that_is_not_utf_8(column: str, tmp_path: Path) -> None:
    names = pa.array([b"train", b"caf\xe9"])
    latin_1 = pa.Array.from_buffers(pa.string(), 2, names.buffers())  # as some tools write it
    table = {"image": pa.array(["a.jpg", "b.jpg"]), "split": pa.array(["train", "test"]), column: latin_1}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet cannot be read as Parquet: .*Invalid UTF8"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("dataset", ["data/t.parquet", "data"])
def test_a_record_batch_holds_many_rows(dataset: str, tmp_path: Path) -> None:
    """Each takes memory, so a million rows would take 22 MB in batches of 100, as `datasets` has them for images."""
    (tmp_path / "data").mkdir()
    features = Features({"image": Image(), "label": Value("int64")})
    rows = [{"image": {"bytes": b"", "path": None}, "label": row} for row in range(2 * ROWS_OF_BATCH)]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data" / "t.parquet")
    raw, _ = open_source(DataArguments(dataset=str(tmp_path / dataset)))
    assert raw.splits["train"].data.column("image").num_chunks == 2
