"""Streamed splits as datasets of batches, for more images than fit on disk or in memory; see `order`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset

from hf_finetune.data.batches import ImageBatches, OnUnreadable, join_with_stand_ins
from hf_finetune.data.images.cache import DecodedImages
from hf_finetune.data.images.decoding import UnreadableImage
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.data.streaming.order import Arrangement, LaneReader
from hf_finetune.data.streaming.split import Row, StreamedSplit
from hf_finetune.errors import UserError


def image_batches(
    split: Dataset | StreamedSplit, stage: TrainingStage | EvaluationStage, decoded: DecodedImages | None = None
) -> ImageBatches | StreamedBatches:
    """Return a split of either kind as a loader's dataset of batches.

    Args:
        split: The split.
        stage: Stage one of training or evaluation.
        decoded: The decoded images of the split, where they are cached. Streams have none.
    """
    return StreamedBatches(split, stage) if isinstance(split, StreamedSplit) else ImageBatches(split, stage, decoded)


class StreamedBatches(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """A streamed split as a loader's dataset of batches, whose rows are numbered in the order of the epoch.

    Attributes:
        split: The split.
        stage: Decodes and stacks the images of a batch.
        on_unreadable: As in `ImageBatches`; another image of the batch takes the place of an unreadable one.
        arrangement: The order of the rows.
    """

    def __init__(self, split: StreamedSplit, stage: TrainingStage | EvaluationStage) -> None:
        """Start with the order of the source, in one batch."""
        self.split = split
        self.stage = stage
        self.on_unreadable: OnUnreadable | None = None
        self.arrange(Arrangement(len(split), max(1, len(split))))

    def arrange(self, arrangement: Arrangement) -> None:
        """Set the order of the rows, which must be the loader's."""
        self.arrangement = arrangement
        self._epoch = -1
        self._lanes: dict[int, LaneReader] = {}

    def __len__(self) -> int:
        return len(self.split)

    def rows(self, positions: Sequence[int]) -> list[Row]:
        """Return the rows at some positions of the epoch; images are not decoded."""
        epoch = int(getattr(self.stage, "epoch", 0))
        if epoch != self._epoch:
            self._epoch, self._lanes = epoch, {}
        found = []
        for position in positions:
            lane, place = self.arrangement.locate(position)
            if lane not in self._lanes:
                self._lanes[lane] = LaneReader(self.split, self.arrangement, epoch, lane)
            found.append(self._lanes[lane][place])
        return found

    def __getitems__(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the stage's batch of the rows at some positions, with their `sample_index`, int64 (batch,)."""
        return self._prepare(self.rows(positions))

    def first(self, count: int) -> dict[str, torch.Tensor]:
        """Return the first images of the source, at most `count`, as a batch; no block is read for it."""
        in_order = StreamedBatches(self.split, self.stage)
        return self._prepare(in_order.rows(range(min(count, len(self)))))

    def _prepare(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        try:
            return self._prepare_all(rows)
        except UnreadableImage:
            if self.on_unreadable is None:
                raise
        prepared = [self._prepare_one(row) for row in rows]
        if all(one is None for one in prepared):
            raise UserError(f"{self.split.name}: none of {len(rows):,} images in a row can be read; fix them.")
        return join_with_stand_ins(prepared)

    def _prepare_all(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        images, labels, sample_index = (list(column) for column in zip(*rows, strict=True))
        batch = self.stage({"image": images, "label": labels, "sample_index": sample_index})
        return {**batch, "sample_index": torch.tensor(sample_index)}

    def _prepare_one(self, row: Row) -> dict[str, torch.Tensor] | None:
        try:
            return self._prepare_all([row])
        except UnreadableImage as error:
            assert self.on_unreadable is not None
            self.on_unreadable(error, row.sample_index)
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lanes": {}, "_epoch": -1}  # a worker opens its own files
