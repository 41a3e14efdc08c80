"""Rows in a .npy file with checksums behind them, so that bytes which a disk has changed are not trained on.

The file is an ordinary .npy file. After its data come the checksums of its blocks, xxh3 of 64 bits (XXH3 of
https://xxhash.com), little-endian. A block is checked when a process first reads a row of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from hf_finetune.errors import UserError, first_line

_BLOCK = 2**18  # bytes: large enough that hashing runs at full speed, small enough to decode again at once
_SUM = np.dtype("<u8")


class DamagedFile(UserError):
    """A file of rows that is truncated, empty or of another shape. Its message is the reason."""


def _rows_per_block(shape: Sequence[int], dtype: np.dtype) -> int:
    return max(1, _BLOCK // max(1, math.prod(shape[1:]) * dtype.itemsize))


def _sum_of(rows: np.ndarray) -> int:
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(rows).data)


def _read_header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return the shape and type that a .npy file states, and where its data begin."""
    try:
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("its header is of another version")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            return shape, dtype, file.tell()
    except (ValueError, EOFError) as error:
        raise DamagedFile(f"{path.name}: {first_line(error)}") from error


def write_sums(path: Path) -> None:
    """Write the checksums behind the data of a complete .npy file, and flush it to the disk."""
    shape, dtype, offset = _read_header(path)
    data = np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
    step = _rows_per_block(shape, dtype)
    sums = np.array([_sum_of(data[start : start + step]) for start in range(0, shape[0], step)], _SUM)
    with open(path, "r+b") as file:
        file.seek(offset + data.nbytes)
        file.write(sums.tobytes())
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


class CheckedRows:
    """The rows of a file that `write_sums` completed, mapped into memory.

    Attributes:
        values: The rows. What is written here stays in this process.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Map a file.

        Args:
            path: The file.
            shape: The shape that it must have.
            dtype: The type that it must have.

        Raises:
            DamagedFile: It has not, or is not as long as it should be.
        """
        found, found_dtype, self._offset = _read_header(path)
        if (found, found_dtype) != (shape, np.dtype(dtype)):
            raise DamagedFile(f"{path.name}: it holds {found} {found_dtype} instead of {shape} {np.dtype(dtype)}")
        self._step = _rows_per_block(found, found_dtype)
        blocks = math.ceil(shape[0] / self._step)
        length = math.prod(shape) * found_dtype.itemsize
        expected, size = self._offset + length + blocks * _SUM.itemsize, path.stat().st_size
        if size != expected:
            raise DamagedFile(f"{path.name}: it has {size:,} bytes instead of {expected:,}")
        self._path, self._sums_offset = path, self._offset + length
        self._sums = np.fromfile(path, _SUM, offset=self._sums_offset)
        self._unchecked: npt.NDArray[np.bool_] | None = np.ones(blocks, bool)
        # Copy on write, because `replace` must also help where the file cannot be written. Indexing a memmap is slower
        # than indexing the same memory as an array.
        self.values = np.asarray(np.memmap(path, found_dtype, mode="c", offset=self._offset, shape=shape))

    def damaged(self, rows: npt.NDArray[np.int64] | None = None) -> list[range]:
        """Check the blocks of some rows that were not checked before.

        Args:
            rows: Row numbers, int64 of any shape; None for all rows.

        Returns:
            The rows of each block whose checksum is wrong. They are returned again until `replace` is called.
        """
        if self._unchecked is None:
            return []
        wrong = []
        blocks = np.arange(len(self._sums)) if rows is None else np.unique(rows // self._step)
        for block in blocks[self._unchecked[blocks]].tolist():
            its_rows = range(len(self.values))[block * self._step : (block + 1) * self._step]
            if _sum_of(self.values[its_rows.start : its_rows.stop]) == self._sums[block]:
                self._unchecked[block] = False
            else:
                wrong.append(its_rows)
        if not self._unchecked.any():
            self._unchecked = None
        return wrong

    def replace(self, rows: range, values: np.ndarray) -> None:
        """Replace a block that `damaged` returned, in this process and, where possible, in the file.

        A write that is interrupted leaves a block whose checksum is wrong, so that the next reader replaces it again.
        """
        self.values[rows.start : rows.stop] = values
        block, row_bytes = rows.start // self._step, self.values[0].nbytes
        content = np.ascontiguousarray(self.values[rows.start : rows.stop])
        self._sums[block] = _sum_of(content)
        if self._unchecked is not None:
            self._unchecked[block] = False
        with suppress(OSError), open(self._path, "r+b") as file:
            file.seek(self._offset + rows.start * row_bytes)
            file.write(content.data)
            file.seek(self._sums_offset + block * _SUM.itemsize)
            file.write(self._sums[block].tobytes())
