"""Splits of images with class ids, whatever source they came from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.catalog import DatasetEntry
from hf_finetune.data.columns import index_array
from hf_finetune.data.images.decoding import Unused
from hf_finetune.data.images.unused import describe_unused
from hf_finetune.data.images.value_range import FoundValues
from hf_finetune.data.streaming.split import StreamedSplit
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.tasks import ONE_LABEL, Task

Split: TypeAlias = Dataset | StreamedSplit

# Pixels of an image that workers pass on whole. For a larger one, cropping in the worker saves more transfer than
# transforming a whole batch at once would save work.
_SMALL_IMAGE = 256 * 256


@dataclass
class ImageDataset:
    """Images for training and evaluation. None is decoded yet.

    Attributes:
        splits: "train", "validation" and "test", those that exist. A `datasets.Dataset` has the columns `image`
            (datasets.Image(decode=False), so {"bytes", "path"}), `label` (int32 class id, 0 to n-1, or n bools) and
            `sample_index` (int32 row number in the source's split). A `StreamedSplit` yields the same as `Row`s.
        split_names: What each split is, in words: "10 % of train, stratified, seed 42".
        label_names: The class names by class id.
        source: What messages call the dataset: the Hub id or the path.
        entry: The catalog's entry of a named dataset.
        notes: Sentences that the user should read.
        bad_images: The unreadable images that `on_bad_image=skip` leaves out, each with the reason.
        unused: By role, how many of the files that were looked at hold what beside the image that is used.
        shared_groups: Those of the notes that name groups which are in train and in another split.
        left_out: By role, the `sample_index` of the images that are in no split: they cannot be read,
            or are in another split too and `drop_duplicates` is set.
        image_sizes: The (height, width) in pixels that all images are known to have: from every header, or from the
            catalog where a sample agrees with it. None where they differ or are not known.
        aspects: The least and the greatest height / width of the images whose headers were read, None without any.
        wide_values: The values of images of more than 8 bits, by a look at some; None where there are no such images.
        channels: How many channels the images have, which are read as they are stored; None for RGB of 8 bits.
        revision: The commit of a dataset that the Hub gave.
        sources: By role, the undivided split of the source that `sample_index` refers to, as the one column `image`.
            A streamed split has none.
        source_labels: By role, the class id of each row of `sources`, int32 of shape (rows,), or which classes it has,
            bool (rows, n).
        slices: By role and column of `slice_columns`, a text for each row of `sources`.
        weights: By row of `sources["train"]`, how often it is drawn in proportion to the others, float64 (rows,), from
            `weight_column`; None without one.
        folder: The folder that messages name images relative to, None where there is none.
        task: What a label says of an image.
    """

    splits: dict[str, Split]
    split_names: dict[str, str]
    label_names: list[str]
    source: str
    entry: DatasetEntry | None
    notes: list[str] = field(default_factory=list)
    bad_images: list[str] = field(default_factory=list)
    unused: dict[str, Counter[Unused]] = field(default_factory=dict)
    shared_groups: list[str] = field(default_factory=list)
    left_out: dict[str, list[int]] = field(default_factory=dict)
    image_sizes: tuple[int, int] | None = None
    aspects: tuple[float, float] | None = None
    wide_values: FoundValues | None = None
    channels: int | None = None
    revision: str | None = None
    sources: dict[str, Dataset] = field(default_factory=dict)
    source_labels: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    slices: dict[str, dict[str, pa.ChunkedArray]] = field(default_factory=dict)
    weights: npt.NDArray[np.float64] | None = None
    folder: Path | None = None
    task: Task = ONE_LABEL

    @property
    def uniform(self) -> bool:
        """Whether all images have one size, small enough to transform whole batches of them on the device."""
        return self.image_sizes is not None and math.prod(self.image_sizes) <= _SMALL_IMAGE

    def note_sizes(self, sizes: set[tuple[int, int]], complete: bool) -> None:
        """Keep what the (height, width) in pixels of images say, those of all of them or of a sample."""
        ratios = [height / width for height, width in sizes]
        self.aspects = (min(ratios), max(ratios)) if ratios else None
        # A sample alone is no proof: one image of another size among a million would make its batch fail.
        if len(sizes) == 1 and (complete or (self.entry is not None and sizes == {self.entry.image_size})):
            (self.image_sizes,) = sizes

    @property
    def streamed(self) -> bool:
        """Whether the images are read from shards during training."""
        return any(isinstance(split, StreamedSplit) for split in self.splits.values())

    def source_rows(self, role: str) -> npt.NDArray[np.int64]:
        """Return the row of each image of a split in the source's split, int64 (images,); of a stream, its place."""
        split = self.splits[role]
        return np.arange(len(split)) if isinstance(split, StreamedSplit) else index_array(split).astype(np.int64)

    def slice_values(self, role: str) -> dict[str, list[str]]:
        """Return the value of each image of a split, by column of `slice_columns`."""
        rows = self.source_rows(role)
        return {column: values.take(rows).to_pylist() for column, values in self.slices.get(role, {}).items()}

    def existing_role(self, role: str | None, split: str, names: Collection[str] = ()) -> str:
        """Return the role that `--split` means.

        Args:
            role: The role that the split has, if it has one.
            split: What the user wrote.
            names: What else the user might have meant.

        Raises:
            UserError: There are no images of this role.
        """
        if role is not None and role in self.splits:
            return role
        advice = did_you_mean(split, [*self.splits, *names])
        raise UserError(f"--split: {self.source} has no split {split}.{advice} It has {', '.join(self.splits)}.")

    def unused_notes(self, roles: Iterable[str]) -> list[str]:
        """Return notes on what the files of some roles hold that is not used."""
        by_split = {self.split_names[role]: role for role in roles}  # two roles may be one split
        unused = sum((self.unused[role] for role in by_split.values()), Counter[Unused]())
        return describe_unused(
            unused, sampled=unused.total() < sum(len(self.splits[role]) for role in by_split.values())
        )

    def note_final_split(self) -> None:
        """Add a note where the final figures come from a split that also chose the checkpoint, or from none."""
        names = self.split_names
        for first, second in combinations(names, 2):
            if names[first] == names[second]:
                self.notes.append(f"{first} and {second} are the same images: both are split {names[first]}.")
        if "test" not in names and "validation" in names:
            self.notes.append(
                "There is no test split: the final figure is reported on validation, which also chose the checkpoint."
            )
        elif "validation" not in names:
            what = "the last checkpoint is the result" if "test" in names else "no figure can be reported"
            self.notes.append(f"There is no validation split and validation_fraction is 0: {what}.")


@dataclass(frozen=True)
class EarlierImages:
    """What an interrupted run recorded about its images, so that a resumed run sees them in the same order.

    Attributes:
        counts: By role, the number of images in the source's split.
        left_out: By role, the `sample_index` of the images that the run left out when it began.
        lost_files: The files that have vanished since, relative to the dataset's folder.
        unreadable: The images that could not be read, each with the reason.
    """

    counts: Mapping[str, int]
    left_out: Mapping[str, Sequence[int]]
    lost_files: Sequence[str] = ()
    unreadable: Sequence[str] = ()
