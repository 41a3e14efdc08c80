"""Damaged and odd tables by the thousand: each is read rightly, or refused in one line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import strategies as st

from hf_finetune.data.sources.table import read_table
from tests.helpers.fuzzing import EXAMPLES, damaged, fuzz

CELLS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "0", "-1", "1.5", "nan", "true", "cats/1.jpg", '"', "a,b", "a\nb", "\x00", "é", "\ud800"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), CELLS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(CELLS, inner, max_size=3)),
    max_leaves=4,
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
KEYS = st.sampled_from(["image", "label", "split", "é", ""])


def text_bytes(texts: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda text, encoding: text.encode(encoding, errors="replace"), texts, ENCODINGS)


def lines_of(rows: list[list[str]], separator: str, newline: str) -> str:
    return newline.join(separator.join(row) for row in rows)


CROOKED = st.builds(
    lines_of,
    st.lists(st.lists(CELLS, max_size=4), max_size=5),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
OBJECTS = st.lists(st.one_of(st.dictionaries(KEYS, VALUES, max_size=4), VALUES), max_size=4)
JSON_LINES = st.builds(lambda rows: "\n".join(json.dumps(row) for row in rows), OBJECTS)


def parquet_bytes() -> bytes:
    file = io.BytesIO()
    table = pa.table({"image": ["a.png", "b.png"], "label": [0, 1], "split": ["train", "test"]})
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


INPUTS = {
    ".csv": st.one_of(text_bytes(CROOKED), damaged(text_bytes(CROOKED)), st.binary(max_size=40)),
    ".tsv": st.one_of(text_bytes(CROOKED), st.binary(max_size=40)),
    ".jsonl": st.one_of(text_bytes(JSON_LINES), damaged(text_bytes(JSON_LINES)), st.binary(max_size=40)),
    ".json": st.one_of(
        text_bytes(st.builds(json.dumps, OBJECTS)),
        damaged(text_bytes(st.builds(json.dumps, OBJECTS))),
        text_bytes(JSON_LINES),
        st.builds(lambda depth: b"[" * depth, st.integers(0, 5000)),
    ),
}


@pytest.mark.parametrize("extension", INPUTS)
@pytest.mark.parametrize("examples", EXAMPLES)
def test_an_odd_table_is_read_or_refused(tmp_path: Path, extension: str, examples: int):
    path = tmp_path / f"table{extension}"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        raw = read_table(path)
        assert raw.splits and all(len(split) for split in raw.splits.values())

    fuzz(check, INPUTS[extension], examples)


@pytest.mark.parametrize("examples", [10, EXAMPLES[1]])
def test_a_damaged_parquet_table_is_read_or_refused(datasets_cache: Path, tmp_path: Path, examples: int):
    path = tmp_path / "table.parquet"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        for split in read_table(path).splits.values():
            split[:]

    fuzz(check, damaged(st.just(parquet_bytes())), examples)


# The letter before each keeps them texts: Arrow would take 1 for a number, and an empty cell for none.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map("x{}".format)
COLUMNS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".json"])
@pytest.mark.parametrize("examples", EXAMPLES)
def test_a_table_that_is_right_is_read_as_other_readers_do(tmp_path: Path, extension: str, examples: int):
    path = tmp_path / f"table{extension}"

    def check(rows: list[tuple[str, str]]) -> None:
        objects = [{"image": image, "label": label} for image, label in rows]
        if extension == ".csv":
            with open(path, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("image", "label"), *rows])
        else:
            lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in objects)
            path.write_text(lines if extension == ".jsonl" else json.dumps(objects), encoding="utf-8", newline="\n")
        assert read_table(path).splits["train"].to_list() == objects

    fuzz(check, COLUMNS, examples)
