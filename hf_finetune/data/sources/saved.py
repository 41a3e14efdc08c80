"""Folders that `datasets` wrote with `save_to_disk`."""

from __future__ import annotations

import datasets
from datasets.exceptions import DatasetsError

from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import Location, folder_of, path_of
from hf_finetune.errors import UserError, first_line

_FILES = ("dataset_dict.json", "state.json")  # of a DatasetDict, and of one Dataset


def matches(location: Location) -> bool:
    """Return whether a dataset is of this kind."""
    folder = folder_of(location)
    return folder is not None and any((folder / name).is_file() for name in _FILES)


def read(location: Location) -> RawDataset:
    """Read the dataset at a location that matches."""
    path = path_of(location)
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise UserError(f"{path} cannot be read as a dataset of save_to_disk: {first_line(error)}.") from error
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    return RawDataset(splits, source=str(path), folder=path)
