"""A split as a dataset of whole batches, in which unreadable images are replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset

from hf_finetune.data.columns import index_array, label_array
from hf_finetune.data.images.cache import DecodedImages
from hf_finetune.data.images.decoding import UnreadableImage, image_name
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.errors import UserError

NOT_COUNTED = -100  # the label that cross_entropy ignores (its default ignore_index)
ROW_BITS = 40  # rows of a split that are told from their repetitions

OnUnreadable: TypeAlias = Callable[[UnreadableImage, int], None]


class ImageBatches(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """A split as a loader's dataset that returns whole batches.

    Attributes:
        split: The split, with the columns `image`, `label` and `sample_index`.
        stage: Decodes and stacks the images of a batch.
        decoded: The split's images, decoded already; None where they are decoded for each batch.
        on_unreadable: Called with the error and the `sample_index` of each image that cannot be read when its batch is
            due. If it returns, another image takes the place, with the label -100: it counts for no loss, gradient or
            metric, and batches keep their size and order. None to raise the error.
    """

    def __init__(
        self,
        split: Dataset,
        stage: TrainingStage | EvaluationStage,
        decoded: DecodedImages | None = None,
        on_unreadable: OnUnreadable | None = None,
    ) -> None:
        self.split = split.with_format(None, columns=["image"])  # the other columns are read once
        self.stage = stage
        self.decoded = decoded
        self.on_unreadable = on_unreadable
        self._shape: torch.Size | None = None  # (channels, height, width) of the images in a batch

    @cached_property
    def labels(self) -> npt.NDArray[Any]:
        """The class ids, int32 of shape (images,), or which classes each image has, bool (images, classes)."""
        return label_array(self.split)

    @cached_property
    def sample_index(self) -> npt.NDArray[np.int32]:
        """The row numbers in the source's split, int32 of shape (images,)."""
        return index_array(self.split)

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the stage's batch of some rows, with their `sample_index`, int64 of shape (batch,).

        An epoch may show a row again: `row + len(self) * n` is its n-th repetition, for which the transforms draw anew.
        """
        try:
            batch = self._read(rows)
        except (UnreadableImage, RuntimeError):  # RuntimeError is torch's where images differ in size
            if self.on_unreadable is None:
                raise
            batch = self._read_with_stand_ins(rows)
        self._shape = self._shape or batch["pixel_values"].shape[1:]
        return batch

    def _read(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        repetitions, places = np.divmod(np.asarray(rows, dtype=np.int64), len(self))
        sample_index = self.sample_index[places].astype(np.int64)
        if self.decoded is None:
            columns = {"image": self.split[places]["image"], "label": self.labels[places]}
        else:
            columns = {"pixels": self.decoded[sample_index], "label": self.labels[places]}
        # What draws depend on: of a repetition, the number of a row that no split has.
        batch = self.stage({**columns, "sample_index": sample_index + (repetitions << ROW_BITS)})
        return {**batch, "sample_index": torch.from_numpy(sample_index)}

    def _read_with_stand_ins(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a batch in which the next readable row of the batch, or of the split, replaces unreadable ones."""
        read = [self._read_one(row) for row in rows]
        if any(one is not None for one in read):
            return join_with_stand_ins(read)
        return join_with_stand_ins([*read, self._next_readable(rows[-1])], len(rows))

    def _read_one(self, row: int) -> dict[str, torch.Tensor] | None:
        """Return a batch of one row, or None where it cannot be read."""
        try:
            batch = self._read([row])
            shape = batch["pixel_values"].shape[1:]
            if self._shape is not None and shape != self._shape:
                name = image_name(self.split[row % len(self)]["image"])
                raise UnreadableImage(
                    name, f"it now has {shape[1]} x {shape[2]} pixels instead of {self._shape[1]} x {self._shape[2]}"
                )
        except UnreadableImage as error:
            assert self.on_unreadable is not None
            self.on_unreadable(error, int(self.sample_index[row % len(self)]))
            return None
        return batch

    def _next_readable(self, row: int) -> dict[str, torch.Tensor]:
        """Return a batch of the first readable row after `row`. Raises `UserError` where there is none."""
        for step in range(1, len(self)):
            batch = self._read_one((row + step) % len(self))
            if batch is not None:
                return batch
        raise UserError("No image of a split can be read any more; check that their folder still exists.")

    def first(self, count: int) -> dict[str, torch.Tensor]:
        """Return the first images, at most `count`, as a batch."""
        return self.__getitems__(range(min(count, len(self))))


def join_with_stand_ins(
    read: Sequence[dict[str, torch.Tensor] | None], count: int | None = None
) -> dict[str, torch.Tensor]:
    """Join batches of one row, and let readable rows replace unreadable ones under the label -100.

    Args:
        read: Batches of one row, None for a row that could not be read. It is replaced by the next readable row, or
            after the last one by the first. At least one must be readable.
        count: How many rows to return from the front; None for all.

    Returns:
        One batch.
    """
    readable = {place: one for place, one in enumerate(read) if one is not None}
    good = list(readable)
    rows = torch.from_numpy(np.searchsorted(good, np.arange(len(read))) % len(good))[:count]
    batch = {key: torch.cat([one[key] for one in readable.values()])[rows] for key in readable[good[0]]}
    batch["labels"][[place for place, one in enumerate(read[:count]) if one is None]] = NOT_COUNTED
    return batch
