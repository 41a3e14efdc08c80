"""From `dataset` and `dataset_path` to an open dataset: where it is, and which source reads it.

`SOURCES` is the one table of sources. A new one costs a file with `matches` and `read` and a line in this table.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_finetune.config.data import DataArguments
from hf_finetune.config.recipe import packaged_recipes
from hf_finetune.data.catalog import CATALOG, DatasetEntry, find_entry
from hf_finetune.data.sources.source import (
    TABLE_EXTENSIONS,
    Location,
    Source,
    archive_advice,
    in_module,
    is_hub_id,
)
from hf_finetune.errors import UserError, did_you_mean, first_line

if TYPE_CHECKING:
    from hf_finetune.data.sources.raw import RawDataset

_FILE_NAMES = in_module("file_names")  # a folder as well, but it is recognized by --label_from_name alone

# The first source that matches reads the dataset. Any folder matches the class folders, so the other layouts of a
# folder stand before them.
SOURCES: list[Source] = [
    _FILE_NAMES,
    in_module("digits"),
    in_module("table", "a table", TABLE_EXTENSIONS),
    in_module("saved", "a folder written by save_to_disk"),
    in_module("hub_copy", "a copy of a Hub dataset", matches="has_dataset_card"),
    in_module("idx", "a folder of IDX files"),
    in_module("table", "a table", matches="has_split_tables", read="read_splits"),
    in_module("metadata", "a folder of images with a metadata file"),
    in_module("hub_copy", "a folder of Parquet files", matches="has_parquet_files"),
    in_module("folder", "a folder of class folders"),
    in_module("hub"),
]


def open_source(arguments: DataArguments, lost_files: Sequence[str] = ()) -> tuple[RawDataset, DatasetEntry | None]:
    """Open the dataset that the arguments name.

    Args:
        arguments: The user's `dataset`, `dataset_path`, `dataset_config` and `dataset_revision`.
        lost_files: Images that have vanished since the run began; see `Location`.

    Returns:
        The splits of the source, and the catalog's entry where the dataset has one.

    Raises:
        UserError: There is no such dataset, or it cannot be read.
    """
    from hf_finetune.data.sources.zip_file import is_zip, unpack_once

    path, entry = find_source(arguments)
    archive = path if path is not None and is_zip(path) else None
    location = Location(
        dataset=arguments.dataset or "",
        path=path if archive is None else unpack_once(archive),
        entry=entry,
        config=arguments.dataset_config,
        revision=arguments.dataset_revision,
        lost_files=lost_files,
        label_columns=arguments.label_columns,
        label_from_name=arguments.label_from_name,
    )
    try:
        source = next((source for source in SOURCES if source.matches(location)), None)
        if source is None:
            advice = archive_advice([str(path)]) or f"tables end in {', '.join(_extensions())}."
            raise UserError(f"{path} is neither a folder nor a table; {advice}")
        if location.label_from_name is not None and source is not _FILE_NAMES:
            raise UserError(
                f"label_from_name is for a folder of images, and {path or arguments.dataset} is none; leave it out."
            )
        raw = source.read(location)
    except OSError as error:
        raise UserError(f"{path or arguments.dataset} cannot be read: {first_line(error)}.") from error
    if archive is not None:
        raw.source = str(archive)
    if arguments.dataset_path:
        raw.source = describe_copy(arguments, entry)
    return raw, entry


def describe_copy(arguments: DataArguments, entry: DatasetEntry | None) -> str:
    """Return what messages call the local copy of a dataset, such as "uoft-cs/cifar10, local copy"."""
    return f"{entry.hub_id if entry else arguments.dataset}, local copy"


def find_source(arguments: DataArguments) -> tuple[Path | None, DatasetEntry | None]:
    """Find out where the dataset is that the arguments name.

    A name in the catalog wins over a path of the same name (./digits is the path), and a path over a Hub id.

    Args:
        arguments: The user's `dataset` and `dataset_path`.

    Returns:
        The path of the dataset, None for the Hub and for datasets that are built in; and the catalog's entry.

    Raises:
        UserError: `dataset` is none of the three, or `dataset_path` does not exist or does not fit it.
    """
    dataset, local_copy = arguments.dataset, arguments.dataset_path
    if not dataset:
        if local_copy:
            raise UserError(
                f"dataset_path is set, but not the dataset that it is a copy of; use --dataset NAME --dataset_path"
                f" {local_copy}, or --dataset {local_copy} for a dataset of your own."
            )
        *kinds, last = ["a Hub id", *_kinds()]
        raise UserError(f"no dataset; use --dataset with a name ({', '.join(CATALOG)}), {', '.join(kinds)} or {last}.")
    entry = find_entry(dataset)
    path = Path(dataset).expanduser()
    if entry is None and path.exists():
        if local_copy:
            raise UserError(
                f"dataset_path is for a copy of a named dataset, but {dataset} is a path itself; leave it out."
            )
        return path, None
    if entry is None and not is_hub_id(dataset):
        raise _unknown_dataset(dataset)
    if entry is not None and entry.hub_id is None and local_copy:
        raise UserError(f"dataset_path: {entry.name} is built in and has no copies; leave it out.")
    if not local_copy:
        return None, entry
    path = Path(local_copy).expanduser()
    if not path.exists():
        raise UserError(f"dataset_path: there is no folder {local_copy}; use the one that holds {dataset}.")
    return path, entry


def _unknown_dataset(dataset: str) -> UserError:
    """Return the error for a word that is no name, no path and no Hub id."""
    path = Path(dataset).expanduser()
    if path.is_symlink():
        return UserError(f"dataset: {dataset} is a link to {os.readlink(path)}, which does not exist.")
    bare = dataset.removeprefix("file://").strip(" \"'")
    if bare != dataset and Path(bare).expanduser().exists():
        return UserError(f"dataset: there is no {dataset}; use --dataset {shlex.quote(bare)}.")
    if _looks_like_path(dataset):
        advice = did_you_mean(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
        return UserError(
            f"dataset: there is no file or folder {dataset}.{advice} Use {', '.join(_kinds())}, a Hub id or one of"
            f" {', '.join(CATALOG)}."
        )
    if dataset in packaged_recipes():
        return UserError(f"dataset: {dataset} is a recipe; use --recipe {dataset}.")
    return UserError(
        f'dataset: "{dataset}" is no named dataset, no path and no Hub id.{did_you_mean(dataset, CATALOG)} The'
        f" names are {', '.join(CATALOG)}; a Hub id looks like uoft-cs/cifar10."
    )


def _kinds() -> list[str]:
    """Return what can be passed as a path: "a folder of class folders", "a table" and so on."""
    return list(dict.fromkeys(source.description for source in reversed(SOURCES) if source.description))


def _extensions() -> tuple[str, ...]:
    return tuple(dict.fromkeys(extension for source in SOURCES for extension in source.extensions))


def _looks_like_path(dataset: str) -> bool:
    return dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or dataset.lower().endswith(_extensions())
