"""Splits of images with class ids, whatever source they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from hf_finetune.data.catalog import DatasetEntry

# Pixels of an image that may travel whole: above it, what is cropped or resized away costs more than a batch saves.
_SMALL_IMAGE = 256 * 256


@dataclass
class ImageDataset:
    """Images for training and evaluation, none decoded yet.

    splits: "train", "validation" and "test", those that there are. Columns: `image`, datasets.Image(decode=False), so
        {"bytes", "path"}; `label`, int32 class id 0 to n-1; `sample_index`, int32 row number in the source's split.
    split_names: what each is, in words: "10 % of train, stratified, seed 42".
    label_names: by class id.
    source: the Hub id or the path.
    entry: the catalog's entry of a named dataset.
    revision: the commit of a dataset that the Hub gave.
    notes: sentences that the user should read.
    bad_images: the unreadable images (`on_bad_image=skip`), each with the reason.
    left_out: by role, the `sample_index` of the images that are in no split because they could not be read.
    image_sizes: the (height, width) in pixels that all images are known to have, from every header or, with a sample
        that agrees, from the catalog; None where they differ or are not known.
    sources: by role, the undivided split of the source that `sample_index` counts in, as the one column `image`.
    folder: what names of images are shortened by, None where there is no such folder.
    """

    splits: dict[str, Dataset]
    split_names: dict[str, str]
    label_names: list[str]
    source: str
    entry: DatasetEntry | None
    notes: list[str] = field(default_factory=list)
    bad_images: list[str] = field(default_factory=list)
    left_out: dict[str, list[int]] = field(default_factory=dict)
    image_sizes: tuple[int, int] | None = None
    revision: str | None = None
    sources: dict[str, Dataset] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def uniform(self) -> bool:
        """Whether all images have one size that is small enough for whole batches of undiminished images."""
        return self.image_sizes is not None and math.prod(self.image_sizes) <= _SMALL_IMAGE


@dataclass(frozen=True)
class EarlierImages:
    """What a resumed run knows of its images, which it needs in the same order as before.

    By role: `counts`, how many the source's split had, and `left_out`, the `sample_index` of those that could not be
    read when the run began. `lost_files` are files that have vanished since, relative to the dataset's folder.
    """

    counts: Mapping[str, int]
    left_out: Mapping[str, Sequence[int]]
    lost_files: Sequence[str] = ()
