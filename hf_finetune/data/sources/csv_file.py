"""CSV and TSV files: the separator is found, and a cell that is not the usual writing of its number stays text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hf_finetune.data.images.decoding import ARRAY_EXTENSION, IMAGE_EXTENSIONS
from hf_finetune.errors import UserError, first_line

_NAMES = (*IMAGE_EXTENSIONS, ARRAY_EXTENSION)
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_HEAD = 2**16  # characters from which the separator is found
_HEAD_ROWS = 20
_INTEGER = r"^(0|-?[1-9][0-9]*)$"  # an integer as it writes itself: not 01, +1 or 1e3
_WHOLE_FLOAT = r"^(0|-?[1-9][0-9]{0,14})[.]0$"  # what tools make of integers beside an empty cell


def read_csv(path: Path) -> tuple[pa.Table, list[str]]:
    """Read a CSV or TSV file whose first line names the columns.

    Columns have the types that Arrow infers, but a column of numbers or booleans in which two texts could be one value
    (01 and 1, 1e3 and 1000, true and True) stays text.

    Args:
        path: The file, UTF-8 with or without a byte order mark. `.tsv` is separated by tabs and all others by commas,
            unless the first lines agree on another separator.

    Returns:
        The table, and notes for the user.

    Raises:
        UserError: The file cannot be read; the message names the line where there is one.
    """
    check_text(path)
    separator = _find_separator(path)
    table = _read(path, separator, pa.csv.ConvertOptions())
    _check_header(path, table.column_names, separator)
    notes = []
    if separator != _usual_separator(path):
        notes.append(f"{path.name}: the values are separated by {_SEPARATORS[separator]}.")
    return _keep_texts(path, table, separator), notes


def check_text(path: Path) -> None:
    """Raise for the first line that is not UTF-8: Arrow's error lacks the line, or Arrow prints to stderr itself."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: not UTF-8 text; save the table as UTF-8.") from error


def _usual_separator(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _find_separator(path: Path) -> str:
    """Return the separator that gives the first rows one number of columns, or else the first row several."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        head = file.read(_HEAD)
    usual = _usual_separator(path)
    candidates = {separator: _widths(head, separator) for separator in (usual, *_SEPARATORS)}
    for separator, widths in candidates.items():
        if widths[0] > 1 and len(set(widths)) == 1:
            return separator
    return next((separator for separator, widths in candidates.items() if widths[0] > 1), usual)


def _widths(head: str, separator: str) -> list[int]:
    """Return the number of columns of each of the first rows, [0] where there is none."""
    rows = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    try:
        widths = [len(row) for row in islice(rows, _HEAD_ROWS) if row]
    except csv.Error:  # such as a field that never ends
        return [0]
    if len(head) == _HEAD and len(widths) > 1 and rows.line_num == len(head.splitlines()):
        widths.pop()  # the last row may not be whole
    return widths or [0]


def _read(path: Path, separator: str, options: pa.csv.ConvertOptions) -> pa.Table:
    malformed: list[pa.csv.InvalidRow] = []

    def remember(row: pa.csv.InvalidRow) -> str:
        malformed.append(row)
        return "error"

    try:
        return pa.csv.read_csv(
            path,
            # Arrow counts rows, which an error message needs, with a single thread only.
            read_options=pa.csv.ReadOptions(use_threads=False),
            parse_options=pa.csv.ParseOptions(delimiter=separator, invalid_row_handler=remember),
            convert_options=options,
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


def _check_header(path: Path, names: Iterable[str], separator: str) -> None:
    """Raise `UserError` where the first line is data: a path of an image is no name of a column."""
    for name in names:
        word = name if name.lower().endswith(_NAMES) else name.split(" ")[0]
        if word.lower().endswith(_NAMES):
            advice = "" if word == name else ", and separate the values by commas"
            header = ("image,label" if word != name else f"image{separator}label").replace("\t", "<TAB>")
            raise UserError(
                f'{path}: the first line is data ("{word}" is an image), not the names of the columns; add the line'
                f" {header} above it{advice}."
            )


def _keep_texts(path: Path, table: pa.Table, separator: str) -> pa.Table:
    """Return the table with those columns as text whose values do not say how they were written."""
    typed = [field.name for field in table.schema if _is_number(field.type) or pa.types.is_boolean(field.type)]
    if not typed or len(set(table.column_names)) < table.num_columns:
        return table
    options = pa.csv.ConvertOptions(
        include_columns=typed, column_types=dict.fromkeys(typed, pa.string()), strings_can_be_null=True
    )
    texts = _read(path, separator, options)
    for name in typed:
        if not _keeps_its_text(table[name], texts[name]):
            table = table.set_column(table.column_names.index(name), name, texts[name])
    return table


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_)


def _keeps_its_text(values: pa.ChunkedArray, texts: pa.ChunkedArray) -> bool:
    """Whether the values of a column tell its texts apart, or are no labels at all (fractions)."""
    if pa.types.is_integer(values.type):
        return _all_match(texts, _INTEGER)
    if pa.types.is_floating(values.type):
        is_whole = bool(pc.all(pc.equal(pc.round(values), values)).as_py())
        return not is_whole or _all_match(texts, _WHOLE_FLOAT)
    return len(pc.unique(texts)) == len(pc.unique(values))


def _all_match(texts: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py() is not False)
