"""Tables of image paths and labels, as CSV, TSV, JSONL, JSON or Parquet."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from datasets import Dataset, Value
from datasets.exceptions import DatasetsError

from hf_finetune.data.columns import SPLIT_COLUMN, arrow_column
from hf_finetune.data.sources.csv_file import check_text, read_csv
from hf_finetune.data.sources.raw import ROWS_OF_BATCH, RawDataset
from hf_finetune.data.sources.source import TABLE_EXTENSIONS, Location, folder_of, path_of
from hf_finetune.data.splits import split_role
from hf_finetune.errors import UserError, first_line

_SHARD = re.compile(r"-\d+-of-\d+$")


def read_table(path: Path) -> RawDataset:
    """Read one table. Relative image paths start at the table's folder.

    A column `split` of names assigns each row to a split; without it all rows are `train`. A Parquet table may contain
    the images themselves.

    Args:
        path: A file whose extension is one of `TABLE_EXTENSIONS`.

    Returns:
        The splits with the table's columns.

    Raises:
        UserError: The table cannot be read; the message names the line where there is one.
    """
    raw = RawDataset({}, source=str(path), folder=path.parent)
    table = _read_file(raw.notes, path)
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
    """Return a table's rows of one split as a new table, to which columns are added faster than to a selection."""
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, filters=[(SPLIT_COLUMN, "==", name)])
    return _to_dataset(table.with_format("arrow")[:].filter(pc.equal(split_column, name)))


def find_split_tables(folder: Path) -> dict[str, list[Path]]:
    """Return {split: files} of a folder's tables that are named like splits: train.csv, test-00000-of-00002.parquet."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        name = _SHARD.sub("", path.stem)
        if path.suffix.lower() in TABLE_EXTENSIONS and split_role(name):
            found.setdefault(name, []).append(path)
    return found


def read_split_tables(folder: Path) -> RawDataset:
    """Read the tables that `find_split_tables` finds, one split each. Raises `UserError` as `read_table` does."""
    raw = RawDataset({}, source=str(folder), folder=folder)
    for split, paths in find_split_tables(folder).items():
        shards = {_SHARD.search(path.stem) is not None for path in paths}
        if len(paths) > 1 and (shards != {True} or len({path.suffix for path in paths}) > 1):
            raise UserError(
                f"{folder} has {' and '.join(path.name for path in paths)}, which would both be split {split};"
                " keep one of them."
            )
        raw.splits[split] = _read_file(raw.notes, *paths)
    return raw


def _read_file(notes: list[str], path: Path, *more: Path) -> Dataset:
    """Read one table, or the shards of one; what the user should know is added to the notes."""
    extension = path.suffix.lower()
    if extension == ".parquet":
        return _read_parquet(path, *more)
    if extension in (".csv", ".tsv"):
        read = {shard: read_csv(shard) for shard in (path, *more)}
        notes += [note for _, its_notes in read.values() for note in its_notes]
        tables = {shard: table for shard, (table, _) in read.items()}
    else:
        tables = {
            shard: _read_json_lines(shard) if extension == ".jsonl" else _read_json(shard) for shard in (path, *more)
        }
    for shard, table in tables.items():
        for name, count in Counter(table.column_names).items():
            if "\0" in name:
                raise UserError(f"{shard} names a column {name!r}, which is not text; save the table as UTF-8.")
            if count > 1:
                raise UserError(f'{shard} has {count} columns named "{name}"; give each a name of its own.')
    try:
        table = pa.concat_tables(_with_common_types(list(tables.values())), promote_options="default")
        if not table.num_rows:
            raise UserError(f"{path} has no rows.")
        return _to_dataset(table)
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:  # such as a column whose name is empty
        raise UserError(f"{path} has columns that a dataset cannot hold: {first_line(error)}.") from error


def _with_common_types(tables: list[pa.Table]) -> list[pa.Table]:
    """Return the shards of a table with those columns as text that are text in one shard and integers in another."""
    for name in {name for table in tables for name in table.column_names}:
        types = {table.schema.field(name).type for table in tables if name in table.column_names}
        if types == {pa.string(), pa.int64()}:
            tables = [
                table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
                for table in tables
            ]
    return tables


def _read_parquet(path: Path, *more: Path, filters: list[tuple[str, str, str]] | None = None) -> Dataset:
    """Read through the cache of `datasets`, because a table that contains the images may be larger than memory."""
    try:
        shards = [str(shard) for shard in (path, *more)]
        dataset = Dataset.from_parquet(shards, filters=filters, writer_batch_size=ROWS_OF_BATCH)
        for name, feature in dataset.features.items():
            if isinstance(feature, Value) and feature.dtype == "string":
                arrow_column(dataset, name).validate(full=True)  # Arrow does not check by itself that it is UTF-8
        return dataset
    except (OSError, ValueError, DatasetsError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {first_line(error.__cause__ or error)}.") from error


def _to_dataset(table: pa.Table) -> Dataset:
    return Dataset.from_dict({name: table[name].combine_chunks() for name in table.column_names})


def _read_json_lines(path: Path) -> pa.Table:
    check_text(path)
    with open(path, encoding="utf-8-sig") as lines:
        if not all(line.startswith(("{", "\n")) or not line.strip() for line in lines):
            lines.seek(0)
            _find_malformed_line(path, lines)  # Arrow's reader crashes on a line that is null
    try:
        return pa.json.read_json(path)
    except (pa.ArrowInvalid, OSError) as error:
        with open(path, encoding="utf-8", errors="replace") as lines:
            _find_malformed_line(path, lines)
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from error


def _find_malformed_line(path: Path, lines: Iterable[str]) -> None:
    """Raise for the first line that is not a JSON object: Arrow's error counts rows within its own blocks."""
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                raise ValueError('it is not an object, such as {"image": "cats/1.jpg", "label": "cat"}')
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not a JSON object: {first_line(error)}.") from error


def _read_json(path: Path) -> pa.Table:
    try:
        contents = path.read_text(encoding="utf-8-sig")
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


def matches(location: Location) -> bool:
    """Return whether a dataset is a file with the extension of a table."""
    path = location.path
    return path is not None and path.is_file() and path.suffix.lower() in TABLE_EXTENSIONS


def read(location: Location) -> RawDataset:
    """Read the table at a location that matches."""
    return read_table(path_of(location))


def has_split_tables(location: Location) -> bool:
    """Return whether a dataset is a folder whose tables are named like splits."""
    folder = folder_of(location)
    return folder is not None and bool(find_split_tables(folder))


def read_splits(location: Location) -> RawDataset:
    """Read the tables at a location that has some."""
    return read_split_tables(path_of(location))
