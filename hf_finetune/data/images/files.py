"""Which files below a folder are images: one rule for training, evaluation and prediction."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from hf_finetune.data.images.decoding import ARRAY_EXTENSION, IMAGE_EXTENSIONS
from hf_finetune.errors import UserError, listing

# What operating systems, editors and archivers leave beside a user's files, in lower case. Nobody misses it, so no note
# names it. "._*" are the resource forks of macOS, and hidden files without the extension of an image belong here too.
_JUNK_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})

Entry: TypeAlias = "os.DirEntry[str]"


@dataclass
class LeftOut:
    """What is not read below a folder, as paths relative to it.

    Attributes:
        other: Hidden images, and files that are no images by their extension.
        special: Named pipes, sockets and devices, which could be read for ever.
        loops: Links to a folder that they are in.
        arrays: Whether arrays (.npy) are images here: they are in a folder that holds no others.
    """

    other: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    arrays: bool = False

    def notes(self) -> list[str]:
        """Return sentences that name what a user may miss."""
        notes = []
        if self.other:
            notes.append(f"{len(self.other):,} files are not used, hidden or not images: {listing(self.other, 3)}.")
        if self.special:
            notes.append(f"Pipes, sockets and devices are not read: {listing(self.special, 3)}.")
        if self.loops:
            notes.append(f"Links to a folder that they are in are not followed: {listing(self.loops, 3)}.")
        return notes


def image_files(folder: str, name: str, left_out: LeftOut, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the images below a folder, at any depth, sorted folder by folder.

    Links are followed, except to one of the folders that they are in. No file is opened.

    Args:
        folder: The folder.
        name: What the paths begin with, in the place of `folder`; "" for nothing.
        left_out: Where the files that are not read are added.
        above: The real paths of the folders that `folder` is in.

    Yields:
        The path of each image, with "/" between its parts.
    """
    above |= {os.path.realpath(folder)}
    for entry in sorted_entries(folder):
        path = f"{name}/{entry.name}" if name else entry.name
        if is_folder(entry):
            if is_followed(entry, path, left_out, above):
                yield from image_files(entry.path, path, left_out, above)
        elif is_image_file(entry, path, left_out):
            yield path


def check_names(folder: Path, paths: Sequence[str]) -> None:
    """Check that the names of files are UTF-8, which the columns of a dataset hold alone.

    Args:
        folder: The folder of the dataset.
        paths: Its images, relative to it.

    Raises:
        UserError: Some are not; the message says how to rename them.
    """
    try:
        "".join([str(folder.absolute()), *paths]).encode()
    except UnicodeEncodeError:
        bad = [path for path in (str(folder), *paths) if any("\udc80" <= letter <= "\udcff" for letter in path)]
        told = f"{folder}: {len(bad):,} names are not in UTF-8: {listing(bad, 3)}"
        if (encoding := sys.getfilesystemencoding()) != "utf-8":  # then names in UTF-8 are among them
            raise UserError(f"{told}, because Python reads names as {encoding} here; set PYTHONUTF8=1.") from None
        raise UserError(
            f"{told}; rename them, for instance by convmv -f latin1 -t utf8 -r --notest {folder}."
        ) from None


def sorted_entries(folder: str | os.PathLike[str]) -> list[Entry]:
    """Return the entries of a folder by name."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def is_folder(entry: Entry) -> bool:
    """Return whether an entry is a folder or a link to one; a link to itself is none, and `is_dir` would raise."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def is_followed(entry: Entry, path: str, left_out: LeftOut, above: frozenset[str]) -> bool:
    """Return whether a folder is read: it is neither hidden, nor junk, nor a link to one of the folders `above`.

    Nor is it the cache of `datasets`, which this package itself writes to and which may be anywhere.
    """
    if is_junk_folder(entry.name):
        return False
    import datasets  # not for images that are named one by one

    cache = str(datasets.config.HF_DATASETS_CACHE)
    if entry.name == os.path.basename(cache) and os.path.realpath(entry.path) == os.path.realpath(cache):
        return False
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        # The walk may begin below the target, as that of a split does.
        if target in above or Path(os.path.realpath(os.path.dirname(entry.path))).is_relative_to(target):
            left_out.loops.append(path)
            return False
    return True


def is_junk_folder(name: str) -> bool:
    """Return whether a folder of this name is hidden, or made by an operating system or an archiver."""
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS


def is_image_file(entry: Entry, path: str, left_out: LeftOut) -> bool:
    """Return whether an entry that is no folder is an image; what is not is added to `left_out`, junk apart."""
    name = entry.name
    named_as_image = has_image_name(name) or (left_out.arrays and name.lower().endswith(ARRAY_EXTENSION))
    # A link to nothing stays an image, so that the check before training names it.
    is_file = os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
    if not is_file and os.path.exists(entry.path):
        left_out.special.append(path)
    elif name.startswith("."):
        if named_as_image and not name.startswith("._"):
            left_out.other.append(path)
    elif named_as_image:
        return True
    elif name.lower() not in _JUNK_FILES:
        left_out.other.append(path)
    return False


def has_image_name(name: str) -> bool:
    """Return whether a file's name ends like that of an image, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS
