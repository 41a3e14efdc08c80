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
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from hf_finetune.data.images.decoding import ImageValue
from hf_finetune.data.images.files import LeftOut, has_image_name, image_files
from hf_finetune.data.sources.source import TARS
from hf_finetune.errors import UserError, first_line
from hf_finetune.logs import progress_bar

if TYPE_CHECKING:
    from hf_finetune.data.parquet_images import TableReader

_STRIDE = 64  # lines from one of which the place is known to the next
_READ_AT_ONCE = 2**28  # bytes; a larger file is opened by its decoder, which looks at its header first

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
        self._tables: TableReader | None = None

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
            return NamedImage(Path(place[0]), load_file(place[0]))
        if len(place) == 3:
            from hf_finetune.data.parquet_images import TableReader  # pyarrow is for these alone

            self._tables = self._tables or TableReader()
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
    for path in check_paths(paths):
        if path.is_dir():
            yield from ([str(found)] for found in _in_folder(path, notes))
        elif path.name.lower().endswith(TARS):
            yield from _in_tar(path)
        elif path.suffix.lower() == ".parquet":
            from hf_finetune.data.parquet_images import rows_of_images

            yield from ([str(path), *place] for place in rows_of_images(path, image_column))
        else:
            yield [str(path)]


def check_paths(paths: Sequence[str | Path]) -> list[Path]:
    """Return paths of files and folders.

    Raises:
        UserError: For one that leads nowhere, or to no regular file.
    """
    return [_checked(path) for path in paths]


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
        left_out = LeftOut(arrays=True)
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


def load_file(path: str) -> ImageValue:
    """Return an image file's bytes, which are then read once; the path where they cannot be had, as decoding says."""
    value = {"bytes": None, "path": path}
    try:
        state = os.stat(path)
        if stat.S_ISREG(state.st_mode) and state.st_size <= _READ_AT_ONCE:
            value["bytes"] = Path(path).read_bytes()  # type: ignore[assignment]
    except OSError:
        pass
    return value
