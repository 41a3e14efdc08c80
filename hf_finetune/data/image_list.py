"""Images without labels, for predictions: named by files, folders, tars and Parquet files, or the rows of a dataset.

What files and folders hold is listed once, in a file with a line for each image, of which a batch reads its own lines.
So a million images take no more memory than a hundred, here and in the workers of a loader.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from hf_finetune.config.data import DataArguments
from hf_finetune.data.columns import arrow_column, find_image_column, image_dataset
from hf_finetune.data.images.decoding import ImageValue
from hf_finetune.data.images.files import LeftOut, has_image_name, image_files
from hf_finetune.data.sources.open import open_source
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import TARS
from hf_finetune.data.splits import choose_splits, split_role
from hf_finetune.errors import UserError, first_line, listing
from hf_finetune.logs import progress_bar

_STRIDE = 64  # lines from one of which the place is known to the next
_READ_AT_ONCE = 2**28  # bytes; a larger file is opened by its decoder, which looks at its header first
_ROWS = 16  # of a Parquet file that are Python objects at a time

Place: TypeAlias = "list[Any]"
"""Where an image is: [path], [tar, member, offset, size] or [Parquet file, row, column]."""


class NamedImage(NamedTuple):
    """An image and what a prediction calls it."""

    name: Path | str | int
    value: ImageValue


class ImageList(Protocol):
    """Images in a fixed order, which are read a few at a time, in any process.

    Attributes:
        digest: A checksum of what the list names, equal for an equal list.
    """

    digest: str

    def __len__(self) -> int: ...

    def read(self, rows: range) -> Iterator[NamedImage]:
        """Yield the images of consecutive rows, each read when it is due, and none decoded."""


@dataclass
class GivenImages:
    """Images that are in memory."""

    images: Sequence[NamedImage]
    digest: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: range) -> Iterator[NamedImage]:
        """See `ImageList.read`."""
        yield from self.images[rows.start : rows.stop]


class DatasetRows:
    """The images of a split of a dataset; see `ImageList`."""

    def __init__(self, images: Dataset, name: str) -> None:
        """Set the list up.

        Args:
            images: A dataset with the one column `image`, not decoded.
            name: What its rows are called where they are no files: "test" for test:0, test:1 and so on.
        """
        self._images = images
        self._name = name
        digest = hashlib.sha256(f"{name} {len(images)}".encode())
        for chunk in arrow_column(images, "image").chunks:  # contents are not read: their lengths say enough
            lengths = pc.fill_null(pc.binary_length(pc.struct_field(chunk, "bytes")), -1)
            digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i8"))
            digest.update("\0".join(map(str, pc.struct_field(chunk, "path").to_pylist())).encode())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def read(self, rows: range) -> Iterator[NamedImage]:
        """See `ImageList.read`."""
        for row, value in zip(rows, self._images[rows.start : rows.stop]["image"], strict=True):
            yield self._named(row, value)

    def _named(self, row: int, value: dict[str, Any]) -> NamedImage:
        if value["bytes"] is None and value["path"]:
            return NamedImage(Path(value["path"]), _loaded(value["path"]))
        return NamedImage(f"{self._name}:{row}", {"bytes": value["bytes"], "path": f"{self._name}:{row}"})


def dataset_rows(arguments: DataArguments, split: str | None) -> DatasetRows:
    """Open the images of a split of a dataset, whose labels nobody needs.

    Args:
        arguments: The dataset, and which of its columns has the images.
        split: The name of the split, or its role: train, validation or test. Absent, the test split; where there is
            none, the validation split; where there is only one, that.

    Raises:
        UserError: There is no such dataset or split, or its images cannot be found.
    """
    raw, entry = open_source(arguments)
    name = split if split in raw.splits else _split_of_role(raw, split, choose_splits(raw, {}, entry))
    column = find_image_column(raw, name, arguments.image_column, entry.image_column if entry else None)
    images = image_dataset(raw, name, column)
    if not len(images):
        raise UserError(f"{raw.source}: split {name} has no images.")
    return DatasetRows(images, f"{raw.source}:{name}")


def _split_of_role(raw: RawDataset, split: str | None, roles: dict[str, str]) -> str:
    if split is not None and split_role(split) in roles:
        return roles[str(split_role(split))]
    usual = roles.get("test") or roles.get("validation") or (next(iter(raw.splits)) if len(raw.splits) == 1 else None)
    if split is not None or usual is None:
        missing = "--split is needed" if split is None else f"--split: there is no split {split}"
        raise UserError(f"{missing}: {raw.source} has {', '.join(raw.splits)}.")
    return usual


class ListedImages:
    """The images of a file that `write_list` wrote; see `ImageList`."""

    def __init__(self, file: Path) -> None:
        """Count the lines of the file, and note where every 64th begins."""
        self._file = file
        self._starts: list[int] = []
        self._count = position = 0
        digest = hashlib.sha256()
        with open(file, "rb") as lines:
            for line in lines:
                if self._count % _STRIDE == 0:
                    self._starts.append(position)
                digest.update(line)
                self._count, position = self._count + 1, position + len(line)
        self.digest = digest.hexdigest()
        self._tables = _TableReader()

    def __len__(self) -> int:
        return self._count

    def read(self, rows: range) -> Iterator[NamedImage]:
        """See `ImageList.read`."""
        with open(self._file, "rb") as lines:
            lines.seek(self._starts[rows.start // _STRIDE])
            first = rows.start % _STRIDE
            for line in islice(lines, first, first + len(rows)):
                yield self._named(json.loads(line))

    def _named(self, place: Place) -> NamedImage:
        if len(place) == 1:
            return NamedImage(Path(place[0]), _loaded(place[0]))
        if len(place) == 3:
            name = f"{place[0]}:{place[1]}"
            return NamedImage(name, {"bytes": self._tables.read(*place), "path": name})
        file, member, offset, size = place
        name = f"{file}/{member}"
        try:
            with open(file, "rb") as tar:
                tar.seek(offset)
                return NamedImage(name, {"bytes": tar.read(size), "path": name})
        except OSError:
            return NamedImage(name, {"bytes": None, "path": name})  # decoding says that there is no such file


def write_list(paths: Sequence[str | Path], file: Path, image_column: str | None = None) -> list[str]:
    """List the images that paths name: image files, folders with some, WebDataset tars and Parquet files.

    Args:
        paths: The paths.
        file: Where the list is written, a line of JSON for each image.
        image_column: The column of images of Parquet files; None for the only one of bytes.

    Returns:
        Notes on what is left out of folders.

    Raises:
        UserError: For a path that leads nowhere or holds no image.
    """
    notes: list[str] = []
    with open(file, "w", encoding="utf-8") as lines:
        places = _places(paths, notes, image_column)
        for place in progress_bar(places, desc="finding images", unit="image", delay=2, leave=False):
            lines.write(f"{json.dumps(place)}\n")
    return notes


def find_images(paths: Sequence[str | Path], notes: list[str]) -> Iterator[Path]:
    """Yield the image files that paths name, and those in folders, which are the ones that training would read.

    Args:
        paths: Files and folders.
        notes: Gets notes on what is left out of the folders.

    Raises:
        UserError: For a path that leads nowhere or to no regular file, and a folder without images.
    """
    for path in map(_checked, paths):
        if path.is_dir():
            yield from _in_folder(path, notes)
        else:
            yield path


def _places(paths: Sequence[str | Path], notes: list[str], image_column: str | None) -> Iterator[Place]:
    """Yield where each image is; every path is looked at before the first, so that a mistake in the last ends it."""
    for path in [_checked(path) for path in paths]:
        if path.is_dir():
            yield from ([str(found)] for found in _in_folder(path, notes))
        elif path.name.lower().endswith(TARS):
            yield from _in_tar(path)
        elif path.suffix.lower() == ".parquet":
            yield from _in_table(path, image_column)
        else:
            yield [str(path)]


def _checked(path: str | Path) -> Path:
    if not str(path).strip():
        raise UserError('An empty path ("") is neither an image nor a folder; remove it, or use . for this folder.')
    path = Path(path)
    if path.is_dir() or path.is_file():
        return path
    if path.exists():
        raise UserError(f"{path} is a pipe, a socket or a device; use image files, or a folder of them.")
    raise UserError(f"There is no file or folder {path}; check the path.")


def _in_folder(folder: Path, notes: list[str]) -> Iterator[Path]:
    left_out, found = LeftOut(), False
    for name in image_files(str(folder), "", left_out):
        found = True
        yield folder / name
    if not found:
        shards = sorted(name for name in left_out.other if name.lower().endswith((*TARS, ".parquet")))
        advice = f"name its files, such as {folder / shards[0]}" if shards else "use a folder that does, or image files"
        raise UserError(f"{folder} holds no images; {advice}.")
    notes += [f"{folder}: {note}" for note in left_out.notes()]


def _in_tar(path: Path) -> Iterator[Place]:
    """Yield the images of a tar, whose headers alone are read."""
    found = False
    try:
        with tarfile.open(path, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # a TarFile would keep all members in memory
                hidden = os.path.basename(member.name).startswith(".")
                if member.isreg() and not member.issparse() and not hidden and has_image_name(member.name):
                    found = True
                    yield [str(path), member.name, member.offset_data, member.size]
    except (tarfile.TarError, EOFError) as error:
        advice = "" if path.suffix.lower() == ".tar" else "; a compressed tar is not read: unpack it to a .tar"
        raise UserError(f"{path} cannot be read as a tar: {first_line(error)}{advice}.") from error
    if not found:
        raise UserError(f"{path} holds no images; use a tar that does.")


def _in_table(path: Path, image_column: str | None) -> Iterator[Place]:
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
    yield from ([str(path), row, columns[0]] for row in range(count))


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column is of bytes, or of what `datasets` stores for an image: {"bytes", "path"}."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class _TableReader:
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


def _loaded(path: str) -> ImageValue:
    """Return an image file's bytes, which are then read once; the path where they cannot be had, as decoding says."""
    value = {"bytes": None, "path": path}
    try:
        state = os.stat(path)
        if stat.S_ISREG(state.st_mode) and state.st_size <= _READ_AT_ONCE:
            value["bytes"] = Path(path).read_bytes()  # type: ignore[assignment]
    except OSError:
        pass
    return value
