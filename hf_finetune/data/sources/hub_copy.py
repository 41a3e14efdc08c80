"""Folders that hold a copy of a Hub dataset: a dataset card that names the files, or Parquet files alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from hf_finetune.data.catalog import DatasetEntry
from hf_finetune.data.sources.raw import ROWS_OF_BATCH, RawDataset
from hf_finetune.data.sources.source import Location, folder_of, path_of
from hf_finetune.errors import UserError, did_you_mean, first_line


def open_hub_copy(path: Path, config: str | None, entry: DatasetEntry | None, load: Callable[..., Any]) -> Any:
    """Open a folder that is laid out as on the Hub. `datasets` runs no code that it finds there.

    Args:
        path: The folder.
        config: The configuration that the user chose, None for the catalog's or the only one.
        entry: The catalog's entry of a named dataset.
        load: `datasets.load_dataset` or `datasets.load_dataset_builder`.

    Returns:
        What `load` returns.

    Raises:
        UserError: The configuration is missing or unknown, or the files cannot be read.
    """
    folder = str(path.absolute())  # a relative path such as "json" would be a module of `datasets`
    try:
        configs = datasets.get_dataset_config_names(folder)
        if config is not None and config not in configs:
            raise UserError(
                f'dataset_config: {path} has no configuration "{config}".{did_you_mean(config, configs)}'
                f" It has {', '.join(configs)}."
            )
        if config is None and entry is not None and entry.config_name in configs:
            config = entry.config_name
        if config is None and len(configs) > 1:
            raise UserError(f"{path} has several configurations; use --dataset_config and one of {', '.join(configs)}.")
        return load(folder, name=config)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise UserError(
            f"{path} cannot be read as a copy of a Hub dataset: {first_line(error.__cause__ or error)}."
        ) from error


def has_dataset_card(location: Location) -> bool:
    """Whether README.md is a dataset card that says which files belong to which split."""
    folder = folder_of(location)
    if folder is None or not (folder / "README.md").is_file():
        return False
    text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    header = text[3:].split("\n---", 1)[0].splitlines() if text.startswith("---") else []
    return any(line.startswith(("configs:", "dataset_info:")) for line in header)


def has_parquet_files(location: Location) -> bool:
    """Return whether a dataset is a folder of Parquet files."""
    folder = folder_of(location)
    return folder is not None and (any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet")))


def read(location: Location) -> RawDataset:
    """Read the dataset at a location that matches."""
    path = path_of(location)
    load: Callable[..., Any] = datasets.load_dataset
    if has_parquet_files(location):
        load = partial(load, writer_batch_size=ROWS_OF_BATCH)
    splits = open_hub_copy(path, location.config, location.entry, load)
    return RawDataset(dict(splits), source=str(path), folder=path)
