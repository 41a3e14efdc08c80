"""CSV files: separators, first lines that are data, and labels that are more than their number."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from hf_finetune.data.sources.csv_file import read_csv
from hf_finetune.data.sources.table import read_split_tables, read_table
from hf_finetune.errors import UserError


def labels_of(folder: Path, *cells: str) -> pa.ChunkedArray:
    path = folder / "t.csv"
    path.write_text("image,label\n" + "".join(f"{row}.png,{cell}\n" for row, cell in enumerate(cells)))
    return read_csv(path)[0]["label"]


@pytest.mark.parametrize(
    "cells",
    [
        ("01", "1", "2"),
        ("007", "008"),
        ("1e3", "1000"),
        ("+1", "1"),
        (" 1", "1"),
        ("-0", "0"),
        ("1.0", "1"),
        ("1.00", "2.00"),
        ("12345678901234567890", "12345678901234567891"),
        ("true", "True", "false"),
        ("true", "1"),
        ('"01"', '"1"'),
    ],
)
def test_what_is_not_the_usual_writing_of_its_number_stays_text(cells: tuple[str, ...], tmp_path: Path) -> None:
    assert labels_of(tmp_path, *cells).to_pylist() == [cell.strip('"') for cell in cells]


@pytest.mark.parametrize(
    ("cells", "type_", "values"),
    [
        (("1", "10", "-3"), pa.int64(), [1, 10, -3]),
        (("1", "", "2"), pa.int64(), [1, None, 2]),
        (("1.0", "", "0.0"), pa.float64(), [1, None, 0]),
        (("0.5", "1.0"), pa.float64(), [0.5, 1]),
        (("true", "false"), pa.bool_(), [True, False]),
        (("cat", "1"), pa.string(), ["cat", "1"]),
    ],
)
def test_other_columns_have_the_type_of_their_values(cells, type_, values, tmp_path: Path) -> None:
    labels = labels_of(tmp_path, *cells)
    assert (labels.type, labels.to_pylist()) == (type_, values)


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("t.csv", "image;label\na,1.png;cat\nb.png;dog\n", "semicolons"),
        ("t.csv", "image;label;box (x,y)\na,1.png;cat;1\nb.png;dog;2\n", "semicolons"),
        ("t.csv", "image\tlabel\na,1.png\tcat\nb.png\tdog\n", "tabs"),
        ("t.csv", "image|label\na,1.png|cat\nb.png|dog\n", "vertical bars"),
        ("t.tsv", 'image,label\n"a,1.png",cat\nb.png,dog\n', "commas"),
        ("t.csv", 'image,label\n"a,1.png",cat\nb.png,dog\n', None),
        ("t.csv", '\ufeffimage;label\r\n"a,1.png";"cat"\r\nb.png;dog\r\n', "semicolons"),
        ("t.tsv", "image\tlabel\na,1.png\tcat\nb.png\tdog\n", None),
    ],
)
def test_separators_are_found_and_said(name: str, content: str, note: str | None, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    raw = read_table(tmp_path / name)
    assert raw.splits["train"]["image"][:] == ["a,1.png", "b.png"]
    assert raw.splits["train"]["label"][:] == ["cat", "dog"]
    assert raw.notes == ([] if note is None else [f"{name}: the values are separated by {note}."])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("p/a.png,cat\nb.png,dog\n", "image,label"),
        ("cat,p/a.png\ndog,b.png\n", "image,label"),
        ("p/a.png;cat\nb.png;dog\n", "image;label"),
        ("\ufeffp/a.png,cat\n", "image,label"),
        ("https://host/p/a.png,cat\n", "image,label"),
        ("p/a.png cat\nb.png dog\n", "image,label above it, and separate the values by commas"),
    ],
)
def test_a_first_line_of_data_is_refused(content: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"the first line is data \(.*a\.png") as caught:
        read_csv(tmp_path / "t.csv")
    assert f"add the line {line}" in str(caught.value)


def test_shards_of_a_table_agree_on_text(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00002.csv").write_text("image,label\na.png,1\nb.png,2\n")
    (tmp_path / "train-00001-of-00002.csv").write_text("image,label\nc.png,01\n")
    assert read_split_tables(tmp_path).splits["train"]["label"][:] == ["1", "2", "01"]
