"""The order of the rows of a stream.

The order of an epoch is a pure function of (seed, epoch). The shards are put in a random order and divided into lanes
of equal length, one per worker of all processes. Each lane is read block by block, and each block of rows is shuffled.
So a stream is a dataset like any other, whose rows are numbered in the order of the epoch. Each shard is read once per
epoch; a run that is resumed within an epoch starts to read at the block of its next batch.

The shuffle buffer of `datasets` would be lost when a run is interrupted, so a resumed run would get other batches; and
its `state_dict` finds a row by reading the shard from the start. Here the position in the epoch is the whole state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hf_finetune.data.batches import NOT_COUNTED
from hf_finetune.data.streaming.split import Row, StreamedSplit


@dataclass(frozen=True)
class Arrangement:
    """The order in which a loader reads the rows of an epoch.

    Attributes:
        length: The number of rows of an epoch. Where it is larger than the split, rows of the beginning follow at the
            end, with the label -100; where it is smaller, the last rows are left out.
        batch_size: The number of rows per batch; the last batch may have fewer.
        lanes: The number of lanes. Batch i of all processes together comes from lane i modulo `lanes`.
        block_size: The number of rows of a lane that are shuffled together.
        seed: The seed of the order; None for the order of the source.
    """

    length: int
    batch_size: int
    lanes: int = 1
    block_size: int = 1
    seed: int | None = None

    @cached_property
    def lane_starts(self) -> np.ndarray:
        """The first row of each lane in the order of the shards, and the end of the last lane, int64 (lanes + 1,)."""
        batches = np.arange(-(-self.length // self.batch_size))
        sizes = np.minimum(self.batch_size, self.length - batches * self.batch_size)
        rows = np.bincount(batches % self.lanes, weights=sizes, minlength=self.lanes).astype(np.int64)
        return np.concatenate([[0], np.cumsum(rows)])

    def locate(self, position: int) -> tuple[int, int]:
        """Return the lane of a position of the epoch, and the place in the lane's shuffled order."""
        batch, offset = divmod(position, self.batch_size)
        return batch % self.lanes, batch // self.lanes * self.batch_size + offset

    def source_rows(self) -> np.ndarray:
        """Return the row in the split of each position of an epoch that is not shuffled, int64 of shape (length,)."""
        lanes, places = np.array([self.locate(position) for position in range(self.length)]).T
        rows: np.ndarray = self.lane_starts[lanes] + places
        return rows


class LaneReader:
    """Reads a lane of an epoch from front to back.

    It keeps at most one block of rows in memory, and the rest of the rows that a shard yields together. For each row of
    a block that is returned, one row of the next block is read, so no batch waits for a whole block.
    """

    def __init__(self, split: StreamedSplit, arrangement: Arrangement, epoch: int, lane: int) -> None:
        """Find the shards of a lane; nothing is read yet."""
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
        """Return the row at a place of the lane's shuffled order. Places in ascending order are read fastest."""
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
        """Yield the lane's rows in the order of the shards. After the last shard the first one follows again.

        Its rows fill up the last batches, and get the label -100.
        """
        total = int(self.shard_ends[-1])
        while True:
            position = (self.start + place) % total
            number = int(np.searchsorted(self.shard_ends, position, side="right"))
            shard = int(self.shards[number])
            first = position - int(self.shard_ends[number] - self.split.counts[shard])
            for row in self.split.read(shard, first):
                yield row if self.start + place < total else _not_counted(row)
                place += 1


def _not_counted(row: Row) -> Row:
    """Return a row with a label that counts for no loss, whether it is one class or several."""
    several = np.ndim(row.label) > 0
    return row._replace(label=np.full(len(row.label), NOT_COUNTED) if several else NOT_COUNTED)
