"""The shards that a stream reads row by row, and the files that contain them.

The number of rows of each shard is known before the first image is read: a Parquet file states it in its footer, and
the headers of a tar are counted (`tars`). So the position of every row is known, and a reader can start at any of them.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_finetune.errors import UserError
from hf_finetune.logs import progress_bar

_THREADS = 16  # files whose footers or headers are read at a time
_SECONDS_BEFORE_BAR = 2
_ROWS = 64  # rows of a row group that are Python objects at a time
_BUFFER = 8 * 2**20  # bytes of a column that are fetched at a time
# Prefixes of the modules of network clients: huggingface_hub uses httpx or httpx2, depending on its version.
_NETWORK_CLIENTS = ("aiohttp", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3")
_FOOTERS = 256  # Parquet footers that a process keeps in memory

Found = TypeVar("Found")

# The errors of reading a shard that is damaged or has been replaced.
DAMAGE = (OSError, pa.ArrowException, tarfile.TarError)


class DataFile(NamedTuple):
    """A file that contains shards.

    Attributes:
        url: A local path, or a URL that fsspec opens.
        size: The size in bytes.
    """

    url: str
    size: int

    @property
    def is_local(self) -> bool:
        """Whether the file is on this machine's file system."""
        return "://" not in self.url

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.url.rsplit("/", 1)[-1]

    def open(self) -> BinaryIO:
        """Open the file for reading at any position; only the requested parts of a remote file are fetched."""
        if self.is_local:
            return open(self.url, "rb")
        file_system, path = _file_system(self.url)
        # A tar is read from front to back in small pieces; Parquet's reader asks for the exact ranges that it needs.
        cache = "none" if path.endswith(".parquet") else "readahead"
        file: BinaryIO = file_system.open(path, "rb", size=self.size, cache_type=cache)
        return file


def find_file(url: str) -> DataFile:
    """Return a file with its size, which is asked of its file system."""
    file_system, path = _file_system(url)
    return DataFile(url, file_system.info(path)["size"])


def read_text(url: str) -> str | None:
    """Return the content of a small text file, or None where it does not exist."""
    file_system, path = _file_system(url)
    try:
        return str(file_system.cat_file(path), "utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _file_system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    options = {"endpoint": datasets.config.HF_ENDPOINT} if url.startswith("hf://") else {}
    file_system, path = fsspec.core.url_to_fs(url, **options)
    return file_system, path


class Shards(Protocol):
    """The shards of a split.

    Attributes:
        files: The files that contain them.
        rows: The number of rows of each shard, int64 of shape (shards,).
    """

    files: Sequence[DataFile]
    rows: np.ndarray

    def read(self, shard: int, first: int) -> Iterator[tuple[list[dict[str, Any]], pa.Array]]:
        """Yield the rows of a shard from row `first` on, a few at a time.

        Args:
            shard: The number of the shard.
            first: The row to start at, counted within the shard.

        Yields:
            The images as {"bytes", "path"}, and the labels as they are stored.
        """


@dataclass
class ParquetShards:
    """The row groups of Parquet files as shards; see `Shards`.

    Attributes:
        image_column: The column of images.
        label_column: The column of labels.
    """

    files: Sequence[DataFile]
    image_column: str
    label_column: str
    rows: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        footers = in_threads(_count_row_groups, self.files, "Reading Parquet footers")
        counts = [np.array(rows, np.int64) for rows in footers]
        self.rows = np.concatenate(counts) if counts else np.zeros(0, np.int64)
        self._file = np.repeat(np.arange(len(counts)), [len(rows) for rows in counts])
        self._row_group = np.concatenate([np.arange(len(rows)) for rows in counts]) if counts else self.rows

    def read(self, shard: int, first: int) -> Iterator[tuple[list[dict[str, Any]], pa.Array]]:
        """Yield the rows of a row group from row `first` on; see `Shards.read`."""
        file = self.files[self._file[shard]]
        with _open_parquet(file) as parquet:
            row = 0
            for batch in parquet.iter_batches(
                batch_size=_ROWS,
                row_groups=[int(self._row_group[shard])],
                columns=[self.image_column, self.label_column],
                use_threads=False,
            ):
                start = max(0, first - row)
                row += len(batch)
                if start < len(batch):
                    batch = batch.slice(start)
                    images = batch.column(self.image_column).to_pylist()
                    yield [_as_image(image) for image in images], batch.column(self.label_column)

    def labels(self) -> Iterator[pa.ChunkedArray]:
        """Yield the label column of each file; no other column is fetched."""
        yield from in_threads(partial(_read_column, column=self.label_column), self.files, "Reading labels")


def read_schema(file: DataFile) -> pa.Schema:
    """Return the columns of a Parquet file."""
    with _open_parquet(file) as parquet:
        return parquet.schema_arrow


@contextmanager
def _open_parquet(file: DataFile) -> Iterator[pq.ParquetFile]:
    with file.open() as stream:
        # Without a buffer a whole column of a row group would be fetched at once, which may be half a gigabyte.
        yield pq.ParquetFile(stream, metadata=_footer(file), buffer_size=_BUFFER)


@lru_cache(maxsize=_FOOTERS)
def _footer(file: DataFile) -> pq.FileMetaData:
    with file.open() as stream:
        return pq.read_metadata(stream)


def _count_row_groups(file: DataFile) -> list[int]:
    footer = _footer(file)
    return [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]


def _read_column(file: DataFile, column: str) -> pa.ChunkedArray:
    with _open_parquet(file) as parquet:
        return parquet.read([column], use_threads=False).column(column)


def _as_image(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    return {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value}


def in_threads(function: Callable[[DataFile], Found], files: Sequence[DataFile], description: str) -> Iterator[Found]:
    """Apply a function to files in several threads, under a progress bar.

    Args:
        function: What to do with a file.
        files: The files.
        description: What the bar says.

    Yields:
        What `function` returns for each file, in their order.
    """
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        progress_bar(total=len(files), desc=description, unit="file", delay=_SECONDS_BEFORE_BAR) as bar,
    ):
        for result in pool.map(function, files):
            bar.update()
            yield result


def is_temporary(error: Exception) -> bool:
    """Return whether an error is a temporary one of the network, so that another attempt may succeed."""
    if isinstance(error, FileNotFoundError | PermissionError | UserError):
        return False
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in (408, 429) or status >= 500
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(_NETWORK_CLIENTS)
