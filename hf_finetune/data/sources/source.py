"""The interface of a source of datasets: where a dataset is, and what recognizes and reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_finetune.data.catalog import DatasetEntry

if TYPE_CHECKING:
    from hf_finetune.data.sources.raw import RawDataset

TABLE_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")  # read as streams
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w")
_ARCHIVES = (*TARS, ".zip", ".tar.zst", ".7z", ".rar")


@dataclass(frozen=True)
class Location:
    """Where a dataset is.

    Attributes:
        dataset: What the user wrote: a name, a Hub id or a path.
        path: The file or folder that holds it; None for the Hub and for datasets that are built in.
        entry: The catalog's entry of a named dataset.
        config: The configuration of a Hub dataset, None for the only one.
        revision: The branch, tag or commit of a Hub dataset, None for the newest.
        lost_files: Images, relative to `path`, that have vanished since a run began. A folder is read as if they were
            still there, so that the order of the others does not change.
        label_columns: The columns of labels that the user chose, or none.
        label_from_name: The regular expression whose group is the class in the name of a file, None without.
    """

    dataset: str
    path: Path | None = None
    entry: DatasetEntry | None = None
    config: str | None = None
    revision: str | None = None
    lost_files: Sequence[str] = ()
    label_columns: Sequence[str] = ()
    label_from_name: str | None = None


@dataclass(frozen=True)
class Source:
    """One kind of source.

    Attributes:
        description: What the user can pass as a path, to complete "use ...": "a folder of class folders". Empty for a
            source that reads no path.
        matches: Returns whether the dataset at a location is of this kind. It reads names and headers at most.
        read: Reads the dataset at a location that matches. Raises `UserError` where that fails.
        extensions: The file extensions, in lower case, that it reads.
    """

    description: str
    matches: Callable[[Location], bool]
    read: Callable[[Location], RawDataset]
    extensions: tuple[str, ...] = ()


def in_module(
    name: str, description: str = "", extensions: tuple[str, ...] = (), matches: str = "matches", read: str = "read"
) -> Source:
    """Return the source whose functions are in a module of this package, which is imported when one is called.

    So a dataset that is not there is told before `datasets` is imported.

    Args:
        name: The module.
        description: As in `Source`.
        extensions: As in `Source`.
        matches: The name of that function in the module.
        read: Likewise.
    """

    def later(function: str) -> Callable[[Location], Any]:
        return lambda location: getattr(import_module(f"{__package__}.{name}"), function)(location)

    return Source(description, later(matches), later(read), extensions)


def is_hub_id(dataset: str) -> bool:
    """Whether a dataset is written as a Hub id: organization/name."""
    return _HUB_ID.fullmatch(dataset) is not None


def folder_of(location: Location) -> Path | None:
    """Return the folder that a dataset is in, or None where it is a file or has no path."""
    return location.path if location.path is not None and location.path.is_dir() else None


def archive_advice(names: Sequence[str]) -> str:
    """Return the end of a sentence that says how the images in archives are read; empty where no name is of one."""
    archives = [name for name in names if name.lower().endswith(_ARCHIVES)]
    if not archives:
        return ""
    stream = "; WebDataset tars are read with --streaming" if archives[0].lower().endswith(".tar") else ""
    return f"archives are not read: unpack {archives[0]}, and use the folder of images that it held{stream}."


def path_of(location: Location) -> Path:
    """Return the path of a location that a source has matched by its path."""
    assert location.path is not None
    return location.path
