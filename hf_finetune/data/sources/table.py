"""Tables of image paths and labels, as CSV, TSV, JSONL, JSON or Parquet."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
from datasets import Dataset, Value
from datasets.exceptions import DatasetsError

from hf_finetune.data.columns import SPLIT_COLUMN, arrow_column
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.splits import split_role
from hf_finetune.errors import UserError, first_line

TABLE_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_SHARD = re.compile(r"-\d+-of-\d+$")


def read_table(path: Path) -> RawDataset:
    """Reads one table. Its relative image paths start at its own folder.

    A column `split` of names says which split a row belongs to; without it all rows are train. A Parquet table may
    hold the images themselves. Raises `UserError` for a table that cannot be read, naming the line.
    """
    raw = RawDataset({}, source=str(path), folder=path.parent)
    table = _read_file(path)
    if isinstance(table.features.get(SPLIT_COLUMN), Value) and table.features[SPLIT_COLUMN].dtype == "string":
        split_column = arrow_column(table, SPLIT_COLUMN)
        if split_column.null_count:
            row = pc.index(pc.is_null(split_column), True).as_py()
            raise UserError(f"{path}: row {row} (counted from 0) names no split in column {SPLIT_COLUMN}.")
        for name in pc.unique(split_column).to_pylist():
            raw.splits[name] = _rows_of_split(path, table, split_column, name)
    else:
        raw.splits["train"] = table
    return raw


def _rows_of_split(path: Path, table: Dataset, split_column: pa.ChunkedArray, name: str) -> Dataset:
    """Returns a table's rows of one split as a table of their own: rows merely selected would be slow to add to."""
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, filters=[(SPLIT_COLUMN, "==", name)])
    return _to_dataset(table.with_format("arrow")[:].filter(pc.equal(split_column, name)))


def find_split_tables(folder: Path) -> dict[str, list[Path]]:
    """Returns {split: files} of a folder's tables named like splits: train.csv, test-00000-of-00002.parquet."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        name = _SHARD.sub("", path.stem)
        if path.suffix.lower() in TABLE_EXTENSIONS and split_role(name):
            found.setdefault(name, []).append(path)
    return found


def read_split_tables(folder: Path) -> RawDataset:
    """Reads the tables of `find_split_tables`, one split each. Raises `UserError` as `read_table` does."""
    raw = RawDataset({}, source=str(folder), folder=folder)
    for split, paths in find_split_tables(folder).items():
        shards = {_SHARD.search(path.stem) is not None for path in paths}
        if len(paths) > 1 and (shards != {True} or len({path.suffix for path in paths}) > 1):
            raise UserError(
                f"{folder} has {' and '.join(path.name for path in paths)}, which would both be split {split};"
                " leave one of them there."
            )
        raw.splits[split] = _read_file(*paths)
    return raw


def _read_file(path: Path, *more: Path) -> Dataset:
    """Reads one table, or the shards of one."""
    extension = path.suffix.lower()
    if extension not in TABLE_EXTENSIONS:
        raise UserError(f"{path} is neither a folder nor a table; tables end in {', '.join(TABLE_EXTENSIONS)}.")
    if extension == ".parquet":
        return _read_parquet(path, *more)
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json_lines, ".json": _read_json}
    tables = {shard: readers[extension](shard) for shard in (path, *more)}
    for shard, table in tables.items():
        for name, count in Counter(table.column_names).items():
            if "\0" in name:
                raise UserError(f"{shard} names a column {name!r}, which is no text; save the table as UTF-8.")
            if count > 1:
                raise UserError(f'{shard} has {count} columns named "{name}"; give each a name of its own.')
    try:
        table = pa.concat_tables(tables.values(), promote_options="default")
        if not table.num_rows:
            raise UserError(f"{path} has no rows.")
        return _to_dataset(table)
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:  # such as a column whose name is empty
        raise UserError(f"{path} has columns that a dataset cannot hold: {first_line(error)}.") from error


def _read_parquet(path: Path, *more: Path, filters: list[tuple] | None = None) -> Dataset:
    """Reads through the datasets cache, because a table that holds the images may be larger than memory."""
    try:
        dataset = Dataset.from_parquet([str(shard) for shard in (path, *more)], filters=filters)
        for name, feature in dataset.features.items():
            if isinstance(feature, Value) and feature.dtype == "string":
                arrow_column(dataset, name).validate(full=True)  # Arrow takes the file's word that it is UTF-8
        return dataset
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {first_line(error.__cause__ or error)}.") from error


def _to_dataset(table: pa.Table) -> Dataset:
    return Dataset.from_dict({name: table[name].combine_chunks() for name in table.column_names})


def _check_text(path: Path) -> None:
    """Raises for the first line that is not UTF-8: Arrow does not say where, or says it on its own road to stderr."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: not UTF-8 text; save the table as UTF-8.") from error


def _read_csv(path: Path) -> pa.Table:
    _check_text(path)
    malformed: list[pa.csv.InvalidRow] = []

    def remember(row: pa.csv.InvalidRow) -> str:
        malformed.append(row)
        return "error"

    try:
        table = pa.csv.read_csv(
            path,
            # Only a single thread counts the rows, which an error message needs.
            read_options=pa.csv.ReadOptions(use_threads=False),
            parse_options=pa.csv.ParseOptions(
                delimiter="\t" if path.suffix.lower() == ".tsv" else ",", invalid_row_handler=remember
            ),
        )
    except (pa.ArrowInvalid, OSError) as error:
        if not malformed:
            raise UserError(f"{path} cannot be read: {first_line(error)}.") from error
        row = malformed[0]
        with open(path, encoding="utf-8", errors="replace") as lines:
            # Arrow does not count empty lines; an editor does.
            number = next(
                islice((n for n, line in enumerate(lines, start=1) if line.strip()), row.number - 1, None), "?"
            )
        raise UserError(
            f"{path}, line {number}: {row.actual_columns} values where the first line names {row.expected_columns}"
            " columns; put values that contain the separator in double quotes."
        ) from error
    return table


def _read_json_lines(path: Path) -> pa.Table:
    _check_text(path)
    with open(path, encoding="utf-8-sig") as lines:
        if not all(line.startswith(("{", "\n")) or not line.strip() for line in lines):
            lines.seek(0)
            _find_malformed_line(path, lines)  # Arrow's reader would crash on a line that is null
    try:
        return pa.json.read_json(path)
    except (pa.ArrowInvalid, OSError) as error:
        with open(path, encoding="utf-8", errors="replace") as lines:
            _find_malformed_line(path, lines)
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from error


def _find_malformed_line(path: Path, lines: Iterable[str]) -> None:
    """Raises for the first line that is not a JSON object. Arrow counts rows from the start of its own blocks."""
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                raise ValueError('it is not an object, such as {"image": "cats/1.jpg", "label": "cat"}')
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not a JSON object: {first_line(error)}.") from error


def _read_json(path: Path) -> pa.Table:
    try:
        contents = path.read_text(encoding="utf-8")
        if not contents.lstrip().startswith("["):
            return _read_json_lines(path)
        return pa.Table.from_pylist(json.loads(contents))
    except (
        ValueError,
        TypeError,
        AttributeError,
        OSError,
        OverflowError,
        RecursionError,
    ) as error:  # ArrowInvalid and JSONDecodeError are ValueErrors
        raise UserError(f"{path} cannot be read as a list of JSON objects: {first_line(error)}.") from error
