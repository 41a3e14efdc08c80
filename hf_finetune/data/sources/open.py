"""Finds out what `dataset` and `dataset_path` mean, and opens it, whatever its layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from hf_finetune.config.data import DataArguments
from hf_finetune.config.recipe import packaged_recipes
from hf_finetune.data.catalog import CATALOG, DatasetEntry, find_entry
from hf_finetune.data.sources.folder import read_class_folders
from hf_finetune.data.sources.hub import is_hub_id, load_from_hub
from hf_finetune.data.sources.idx import find_idx_files, read_idx_folder
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.table import TABLE_EXTENSIONS, find_split_tables, read_split_tables, read_table
from hf_finetune.errors import UserError, did_you_mean, first_line, listing


def open_source(arguments: DataArguments, lost_files: Sequence[str] = ()) -> tuple[RawDataset, DatasetEntry | None]:
    """Opens the dataset that the arguments name, and returns it with its entry in the catalog where it has one.

    `lost_files` are images that a folder, to which they are relative, is to be read with though they are gone. Raises
    `UserError` where `find_source` does, and for what cannot be opened.
    """
    path, entry = find_source(arguments)
    if path is not None:
        raw = _open_path(path, arguments.dataset_config, entry, lost_files)
        if arguments.dataset_path:
            raw.source = describe_copy(arguments, entry)
        return raw, entry
    if entry is not None and entry.hub_id is None:
        # scikit-learn takes half a second to import, and only this dataset needs it.
        from hf_finetune.data.sources.digits import read_digits

        return read_digits(entry), entry
    config = arguments.dataset_config or (entry.config_name if entry else None)
    return load_from_hub(arguments.dataset, entry, config, arguments.dataset_revision), entry


def describe_copy(arguments: DataArguments, entry: DatasetEntry | None) -> str:
    return f"{entry.hub_id if entry else arguments.dataset}, local copy"


def find_source(arguments: DataArguments) -> tuple[Path | None, DatasetEntry | None]:
    """Returns the path where the dataset lies, None for the Hub and what is built in, and its entry in the catalog.

    A name of the catalog goes before a path of the same name (write ./digits for the path), and a path before a Hub
    id. Raises `UserError` for what is none of them.
    """
    dataset, local_copy = arguments.dataset, arguments.dataset_path
    if not dataset:
        if local_copy:
            raise UserError(
                f"dataset_path is set, but not the dataset that it is a copy of; use --dataset NAME --dataset_path"
                f" {local_copy}, or --dataset {local_copy} for a dataset of your own."
            )
        raise UserError(
            f"no dataset; use --dataset with a name ({', '.join(CATALOG)}), a Hub id, a folder of class folders or a"
            " table."
        )
    entry = find_entry(dataset)
    path = Path(dataset).expanduser()
    if entry is None and path.exists():
        if local_copy:
            raise UserError(
                f"dataset_path is for a copy of a named dataset, but {dataset} is a path itself; leave it out."
            )
        return path, None
    if entry is None and not is_hub_id(dataset):
        if _looks_like_path(dataset):
            advice = did_you_mean(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
            raise UserError(
                f"dataset: there is no file or folder {dataset}.{advice} Use a folder of class folders, a table, a"
                f" Hub id or one of {', '.join(CATALOG)}."
            )
        if dataset in packaged_recipes():
            raise UserError(f"dataset: {dataset} is a recipe; use --recipe {dataset}.")
        raise UserError(
            f'dataset: "{dataset}" is no named dataset, no path and no Hub id.{did_you_mean(dataset, CATALOG)} The'
            f" names are {', '.join(CATALOG)}; a Hub id looks like uoft-cs/cifar10."
        )
    if entry is not None and entry.hub_id is None and local_copy:
        raise UserError(f"dataset_path: {entry.name} is built in and has no copies; leave it out.")
    if not local_copy:
        return None, entry
    path = Path(local_copy).expanduser()
    if not path.exists():
        raise UserError(f"dataset_path: there is no folder {local_copy}; use the one that holds {dataset}.")
    return path, entry


def _looks_like_path(dataset: str) -> bool:
    return dataset.startswith((".", "/", "~")) or dataset.count("/") > 1 or dataset.lower().endswith(TABLE_EXTENSIONS)


def _open_path(path: Path, config: str | None, entry: DatasetEntry | None, lost_files: Sequence[str]) -> RawDataset:
    try:
        return _open_layout(path, config, entry, lost_files)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from error


def _open_layout(path: Path, config: str | None, entry: DatasetEntry | None, lost_files: Sequence[str]) -> RawDataset:
    if path.is_file():
        return read_table(path)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _load_saved(path)
    if _has_dataset_card(path):
        return _load_hub_copy(path, config, entry)
    if find_idx_files(path):
        return read_idx_folder(path, entry.label_names if entry else None)
    if find_split_tables(path):
        return read_split_tables(path)
    if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        return _load_hub_copy(path, config, entry)
    tables = [table.name for table in sorted(path.iterdir()) if table.suffix.lower() in TABLE_EXTENSIONS]
    try:
        return read_class_folders(path, lost_files)
    except UserError as error:
        if not tables:
            raise
        raise UserError(
            f"{path} holds tables, but none is named like a split ({listing(tables)}); use --dataset"
            f" {path / tables[0]}, or name it train{Path(tables[0]).suffix}."
        ) from error


def _has_dataset_card(path: Path) -> bool:
    """Whether README.md is a dataset card that says which files the splits are in."""
    card = path / "README.md"
    if not card.is_file():
        return False
    text = card.read_text(encoding="utf-8", errors="replace")
    header = text[3:].split("\n---", 1)[0].splitlines() if text.startswith("---") else []
    return any(line.startswith(("configs:", "dataset_info:")) for line in header)


def _load_saved(path: Path) -> RawDataset:
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise UserError(f"{path} cannot be read as a dataset of save_to_disk: {first_line(error)}.") from error
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    return RawDataset(splits, source=str(path), folder=path)


def _load_hub_copy(path: Path, config: str | None, entry: DatasetEntry | None) -> RawDataset:
    splits = open_hub_copy(path, config, entry, datasets.load_dataset)
    return RawDataset(dict(splits), source=str(path), folder=path)


def open_hub_copy(path: Path, config: str | None, entry: DatasetEntry | None, load: Callable[..., Any]) -> Any:
    """Returns what `load`, a function of `datasets`, makes of a folder that is laid out as on the Hub.

    Nothing of it is executed: `datasets` runs no scripts. Raises `UserError`.
    """
    try:
        configs = datasets.get_dataset_config_names(str(path))
        if config is not None and config not in configs:
            raise UserError(
                f'dataset_config: {path} has no configuration "{config}".{did_you_mean(config, configs)}'
                f" It has {', '.join(configs)}."
            )
        if config is None and entry is not None and entry.config_name in configs:
            config = entry.config_name
        if config is None and len(configs) > 1:
            raise UserError(f"{path} has several configurations; use --dataset_config and one of {', '.join(configs)}.")
        return load(str(path), name=config)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise UserError(
            f"{path} cannot be read as a copy of a Hub dataset: {first_line(error.__cause__ or error)}."
        ) from error
