"""Images for predictions: the rows of a dataset, whose labels nobody needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.config.data import DataArguments
from hf_finetune.data.columns import find_image_column, image_dataset, image_lengths, image_paths
from hf_finetune.data.image_list import NamedImage, load_file
from hf_finetune.data.sources.open import open_source
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.splits import choose_splits, split_role
from hf_finetune.errors import UserError


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
        # Contents are not read: their lengths say enough.
        for lengths, paths in zip(image_lengths(images).chunks, image_paths(images).chunks, strict=True):
            digest.update(pc.fill_null(lengths, -1).to_numpy(zero_copy_only=False).astype("<i8"))
            digest.update("\0".join(map(str, paths.to_pylist())).encode())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def read(self, rows: range) -> Iterator[NamedImage]:
        """See `ImageList.read`."""
        for row, value in zip(rows, self._images[rows.start : rows.stop]["image"], strict=True):
            yield self._named(row, value)

    def _named(self, row: int, value: dict[str, Any]) -> NamedImage:
        if value["bytes"] is None and value["path"]:
            return NamedImage(Path(value["path"]), load_file(value["path"]))
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
