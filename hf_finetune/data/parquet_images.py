"""Images for predictions that are in Parquet files, which pyarrow reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_finetune.errors import UserError, first_line, listing

_ROWS = 16  # of a Parquet file that are Python objects at a time


def rows_of_images(path: Path, image_column: str | None) -> Iterator[tuple[int, str]]:
    """Yield the row and the column of each image of a Parquet file.

    Args:
        path: The file.
        image_column: The column of images; None for the only one of bytes.

    Raises:
        UserError: It cannot be read, or which column has the images is not clear.
    """
    try:
        with pq.ParquetFile(path) as table:
            schema, count = table.schema_arrow, table.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {first_line(error)}.") from error
    columns = [field.name for field in schema if _holds_bytes(field.type)]
    if image_column is not None:
        columns = [name for name in columns if name == image_column]
    if len(columns) != 1:
        found = f"has the columns {listing(schema.names)}" if not columns else f"has {listing(columns)} of bytes"
        raise UserError(f"{path} {found}; use --image_column with the one that holds the bytes of images.")
    if not count:
        raise UserError(f"{path} has no rows; use a table that does.")
    yield from ((row, columns[0]) for row in range(count))


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column is of bytes, or of what `datasets` stores for an image: {"bytes", "path"}."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class TableReader:
    """Reads rows of Parquet files that mostly follow each other; those between two of them are passed over."""

    def __init__(self) -> None:
        self._file, self._next, self._end = "", 0, 0
        self._values: Iterator[Any] = iter(())

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a worker of a loader that is not forked begins anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def read(self, file: str, row: int, column: str) -> bytes | None:
        """Return the bytes of an image, None where a row has none or the file cannot be read any more."""
        try:
            if file != self._file or not self._next <= row < self._end:
                self._open(file, row, column)
            value = next(islice(self._values, row - self._next, None))
        except (pa.ArrowException, OSError, StopIteration):
            self.__init__()  # type: ignore[misc]
            return None
        self._next = row + 1
        content = value.get("bytes") if isinstance(value, dict) else value
        return content if isinstance(content, bytes) else None

    def _open(self, file: str, row: int, column: str) -> None:
        """Begin to read the row group that a row is in."""
        table = pq.ParquetFile(file)
        group, first = 0, 0
        while first + (rows := table.metadata.row_group(group).num_rows) <= row:
            group, first = group + 1, first + rows
        batches = table.iter_batches(_ROWS, row_groups=[group], columns=[column], use_threads=False)
        self._values = (value for batch in batches for value in batch.column(0).to_pylist())
        self._file, self._next, self._end = file, first, first + rows
