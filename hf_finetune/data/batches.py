"""A split as whole batches, which its stage has stacked; unreadable images are replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.data.columns import arrow_column
from hf_finetune.data.images.cache import DecodedImages
from hf_finetune.data.images.decoding import UnreadableImage, image_name
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.errors import UserError

NOT_COUNTED = -100  # cross_entropy's own mark of a label that does not count


class ImageBatches(torch.utils.data.Dataset):
    """A split as a loader's dataset that hands over whole batches, which its stage has stacked already.

    Where the split's images are decoded already, they and the labels come from memory, past the split's table.

    `on_unreadable` is called with the error and the `sample_index` of each image that cannot be read when its batch
    is due. If it returns, another image stands in, under the label -100: no loss, gradient or figure counts it, and
    batches keep their size and order. Without it the error is raised.
    """

    def __init__(
        self,
        split: Dataset,
        stage: TrainingStage | EvaluationStage,
        decoded: DecodedImages | None = None,
        on_unreadable: Callable[[UnreadableImage, int], None] | None = None,
    ) -> None:
        self.split = split.with_transform(stage)
        self.stage = stage
        self.decoded = decoded
        self.on_unreadable = on_unreadable
        self._shape: torch.Size | None = None  # of an image in a batch

    @cached_property
    def labels(self) -> np.ndarray:
        """The class ids, int64 (images,)."""
        return arrow_column(self.split, "label").to_numpy().astype(np.int64)

    @cached_property
    def sample_index(self) -> np.ndarray:
        """The row numbers in the source's split, int64 (images,)."""
        return arrow_column(self.split, "sample_index").to_numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns what the stage makes of the rows, and their `sample_index`, int64 (batch,)."""
        try:
            batch = self._read(rows)
        except (UnreadableImage, RuntimeError):  # torch's, of images that differ in size and cannot be stacked
            if self.on_unreadable is None:
                raise
            batch = self._read_with_stand_ins(rows)
        self._shape = self._shape or batch["pixel_values"].shape[1:]
        return batch

    def _read(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        sample_index = self.sample_index[rows]
        if self.decoded is None:
            batch = self.split[rows]
        else:
            batch = self.stage(
                {"pixels": self.decoded[sample_index], "label": self.labels[rows], "sample_index": sample_index}
            )
        return {**batch, "sample_index": torch.from_numpy(sample_index)}

    def _read_with_stand_ins(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns a batch with, for each unreadable row, the next readable one of the batch or else of the split."""
        read = [self._read_one(row) for row in rows]
        if any(one is not None for one in read):
            return join_with_stand_ins(read)
        return join_with_stand_ins([*read, self._next_readable(rows[-1])], len(rows))

    def _read_one(self, row: int) -> dict[str, torch.Tensor] | None:
        """Returns a batch of one row, None where it cannot be read."""
        try:
            batch = self._read([row])
            shape = batch["pixel_values"].shape[1:]
            if self._shape is not None and shape != self._shape:
                name = image_name(self.split.with_format(None)[int(row)]["image"])
                raise UnreadableImage(
                    name, f"it is of {shape[1]} x {shape[2]} pixels now, not of {self._shape[1]} x {self._shape[2]}"
                )
        except UnreadableImage as error:
            self.on_unreadable(error, int(self.sample_index[row]))
            return None
        return batch

    def _next_readable(self, row: int) -> dict[str, torch.Tensor]:
        """Returns a batch of the first readable row after `row`. Raises `UserError` where there is none."""
        for step in range(1, len(self)):
            batch = self._read_one((row + step) % len(self))
            if batch is not None:
                return batch
        raise UserError("Not one image of a split can be read any more; check that their folder is there.")

    def first(self, count: int) -> dict[str, torch.Tensor]:
        """Returns the first images, at most `count`, as a batch."""
        return self.__getitems__(range(min(count, len(self))))


def join_with_stand_ins(
    read: Sequence[dict[str, torch.Tensor] | None], count: int | None = None
) -> dict[str, torch.Tensor]:
    """Returns batches of one row as one batch, of which the first `count` rows, or all, are kept.

    In the place of None stands the next one that is there, or after the last the first, under a label that does not
    count.
    """
    good = [place for place, one in enumerate(read) if one is not None]
    rows = torch.from_numpy(np.searchsorted(good, np.arange(len(read))) % len(good))[:count]
    batch = {key: torch.cat([read[place][key] for place in good])[rows] for key in read[good[0]]}
    batch["labels"][[place for place, one in enumerate(read[:count]) if one is None]] = NOT_COUNTED
    return batch


def pass_on(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The collator of `ImageBatches`, whose batches are whole.

    A loader's worker moves its batch to shared memory here, where a lack of it is an error that the main process gets.
    Later it would be one of the queue's own thread, which loses the batch, and the main process would wait for ever.
    """
    if torch.utils.data.get_worker_info() is not None:
        for tensor in batch.values():
            tensor.share_memory_()
    return batch
