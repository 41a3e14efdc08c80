"""Splits that are read while they are learned from, for more images than disk or memory hold.

The order of an epoch is a pure function of (seed, epoch): the shards in a random order, cut into as many lanes of equal
length as there are workers in all processes; of each lane one block of rows after another, each block shuffled. So a
stream is a dataset like any other whose rows are numbered in the epoch's order. Asked for one batch after the other, it
reads each shard once; asked for a batch in mid-epoch, after an interruption, it begins to read at that batch's block.

The shuffle buffer of `datasets` is lost where a run is interrupted, so that a resumed run gets other batches, and
its `state_dict` finds a row again by reading the shard from its front. Here the place in the epoch says it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_finetune.data.batches import NOT_COUNTED, ImageBatches, join_with_stand_ins
from hf_finetune.data.images.cache import DecodedImages
from hf_finetune.data.images.decoding import UnreadableImage
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.data.streaming.split import Row, StreamedSplit
from hf_finetune.errors import UserError


@dataclass(frozen=True)
class Arrangement:
    """How a loader asks for the rows of an epoch.

    Batches are of `batch_size` rows, the last may be shorter; of all processes together, the one numbered i comes from
    lane i modulo `lanes`. An epoch has `length` rows: more than the split where its end is filled up with rows of its
    beginning, under the label -100, and fewer where the last rows are left out. Blocks of `block_size` rows of a lane
    are shuffled by `seed`; None keeps the order of the source.
    """

    length: int
    batch_size: int
    lanes: int = 1
    block_size: int = 1
    seed: int | None = None

    @cached_property
    def lane_starts(self) -> np.ndarray:
        """Where each lane begins among the rows of the shards' order, and behind the last where it ends, int64."""
        batches = np.arange(-(-self.length // self.batch_size))
        sizes = np.minimum(self.batch_size, self.length - batches * self.batch_size)
        rows = np.bincount(batches % self.lanes, weights=sizes, minlength=self.lanes).astype(np.int64)
        return np.concatenate([[0], np.cumsum(rows)])

    def locate(self, position: int) -> tuple[int, int]:
        """Returns the lane of a position of the epoch and its place in the lane's shuffled order."""
        batch, offset = divmod(position, self.batch_size)
        return batch % self.lanes, batch // self.lanes * self.batch_size + offset

    def source_rows(self) -> np.ndarray:
        """Returns for each position of an epoch that is not shuffled its row in the split, int64 (length,)."""
        lanes, places = np.array([self.locate(position) for position in range(self.length)]).T
        return self.lane_starts[lanes] + places


class LaneReader:
    """Reads a lane of an epoch from front to back, and holds no more rows than a block and the rest of a shard's piece.

    While a block is handed out the next one is read, a row for a row, so that no batch waits for a whole block.
    """

    def __init__(self, split: StreamedSplit, arrangement: Arrangement, epoch: int, lane: int) -> None:
        self.split = split
        self.block_size = arrangement.block_size
        self.key = None if arrangement.seed is None else (arrangement.seed, epoch)
        self.lane = lane
        self.start = int(arrangement.lane_starts[lane])
        self.length = int(arrangement.lane_starts[lane + 1]) - self.start
        shards = np.arange(len(split.counts))
        self.shards = shards if self.key is None else np.random.default_rng(self.key).permutation(shards)
        self.shard_ends = np.cumsum(split.counts[self.shards])
        self.held: dict[int, Row] = {}
        self.next_place = -1

    def __getitem__(self, place: int) -> Row:
        """Returns the row at a place of the lane's shuffled order; the next place costs least."""
        block = place // self.block_size
        if place != self.next_place:
            self._begin_at(place)
        elif place % self.block_size == 0:
            self.order = self._order_of(block)
        self._read_to(max((block + 1) * self.block_size, place + self.block_size))
        self.next_place = place + 1
        return self.held.pop(block * self.block_size + int(self.order[place % self.block_size]))

    def _begin_at(self, place: int) -> None:
        block, offset = divmod(place, self.block_size)
        self.order = self._order_of(block)
        self.held.clear()
        self.rows_read = block * self.block_size
        self.handed_out = set((self.rows_read + self.order[:offset]).tolist())
        self.rows = self._rows_from(self.rows_read)

    def _order_of(self, block: int) -> np.ndarray:
        size = min(self.block_size, self.length - block * self.block_size)
        if self.key is None:
            return np.arange(size)
        return np.random.default_rng((*self.key, self.lane, block)).permutation(size)

    def _read_to(self, count: int) -> None:
        while self.rows_read < min(count, self.length):
            row = next(self.rows)
            if self.rows_read not in self.handed_out:
                self.held[self.rows_read] = row
            self.rows_read += 1

    def _rows_from(self, place: int) -> Iterator[Row]:
        """Yields the lane's rows in the order of the shards; behind the last shard follows the first again.

        Those are there to fill up the last batches, and do not count.
        """
        total = int(self.shard_ends[-1])
        while True:
            position = (self.start + place) % total
            number = int(np.searchsorted(self.shard_ends, position, side="right"))
            shard = int(self.shards[number])
            first = position - int(self.shard_ends[number] - self.split.counts[shard])
            for row in self.split.read(shard, first):
                yield row if self.start + place < total else row._replace(label=NOT_COUNTED)
                place += 1


def image_batches(
    split: Dataset | StreamedSplit, stage: TrainingStage | EvaluationStage, decoded: DecodedImages | None = None
) -> ImageBatches | StreamedBatches:
    """Returns a split of either kind as a loader's dataset."""
    return StreamedBatches(split, stage) if isinstance(split, StreamedSplit) else ImageBatches(split, stage, decoded)


class StreamedBatches(torch.utils.data.Dataset):
    """A streamed split as a loader's dataset, whose rows are numbered in the epoch's order.

    `on_unreadable` is called with the error and the `sample_index` of each image that cannot be read. If it returns,
    another image of the batch stands in, under the label -100, which no loss and no figure counts; so batches keep
    their size. Without it the error is raised.
    """

    def __init__(self, split: StreamedSplit, stage: TrainingStage | EvaluationStage) -> None:
        self.split = split
        self.stage = stage
        self.on_unreadable: Callable[[UnreadableImage, int], None] | None = None
        self.arrange(Arrangement(len(split), max(1, len(split))))

    def arrange(self, arrangement: Arrangement) -> None:
        self.arrangement = arrangement
        self._epoch = -1
        self._lanes: dict[int, LaneReader] = {}

    def __len__(self) -> int:
        return len(self.split)

    def rows(self, positions: Sequence[int]) -> list[Row]:
        """Returns the rows at some positions of the epoch, undecoded."""
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
        """Returns what the stage makes of the rows, and their `sample_index`, int64 (batch,)."""
        return self._prepare(self.rows(positions))

    def first(self, count: int) -> dict[str, torch.Tensor]:
        """Returns the first images of the source, at most `count`, as a batch; no block is read for it."""
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
            raise UserError(f"{self.split.name}: not one of {len(rows):,} images in a row can be read; fix them.")
        return join_with_stand_ins(prepared)

    def _prepare_all(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        images, labels, sample_index = (list(column) for column in zip(*rows, strict=True))
        batch = self.stage({"image": images, "label": labels, "sample_index": sample_index})
        return {**batch, "sample_index": torch.tensor(sample_index)}

    def _prepare_one(self, row: Row) -> dict[str, torch.Tensor] | None:
        try:
            return self._prepare_all([row])
        except UnreadableImage as error:
            self.on_unreadable(error, row.sample_index)
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lanes": {}, "_epoch": -1}  # a worker opens its own files
