"""A split in shards, whose rows are read one after another from any of them on, however the network is."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from hf_finetune.data.streaming.shards import DAMAGE, Shards, is_passing
from hf_finetune.data.transforms.randomness import draw_keys, uniform_draws
from hf_finetune.errors import UserError, first_line

# Seconds to wait before a shard is tried again, beside the shorter tries of huggingface_hub's own.
_PAUSES = (1, 4, 15, 60, 120)
_HOLD_OUT_STREAM = 0x4C0  # of the draws that say what is held out; transforms count theirs from 0


class Row(NamedTuple):
    """An image, undecoded, as {"bytes", "path"}; its class id, or -100; its number in the source's split."""

    image: dict[str, Any]
    label: int
    sample_index: int


@dataclass(frozen=True)
class HoldOut:
    """The part of train's rows that is held out, drawn row by row. `taken` says which side of it a split is."""

    fraction: float
    seed: int
    taken: bool

    def keeps(self, sample_index: np.ndarray) -> np.ndarray:
        """Returns which rows belong to the split, bool (rows,), from their numbers, int64 (rows,)."""
        draws = uniform_draws(draw_keys(self.seed, 0, torch.from_numpy(sample_index)), _HOLD_OUT_STREAM, 1)[:, 0]
        return (draws < self.fraction).numpy() == self.taken


@dataclass
class StreamedSplit:
    """A split in shards. What is known of it are the numbers of rows; images and labels are read when they are due.

    `to_class_ids` turns labels into class ids, and is given the numbers of their rows for its messages. `name` is for
    messages too. `buffer_size` is the number of rows that each process may hold in order to shuffle them. `counts` are
    the rows of each shard that belong to the split: all of them, but for a `hold_out` and a limit.
    """

    shards: Shards
    to_class_ids: Callable[[pa.Array, Sequence[int]], list[int]]
    name: str
    buffer_size: int
    hold_out: HoldOut | None = None
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = self.shards.rows
        if self.hold_out is not None:
            self.counts = np.array([self._kept_rows(shard).size for shard in range(len(self.counts))], np.int64)

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def fingerprint(self) -> str:
        """Tells other rows, or files of other sizes, apart; where the files lie does not matter."""
        sizes = np.array([file.size for file in self.shards.files], np.int64)
        return hashlib.sha256(self.counts.tobytes() + sizes.tobytes()).hexdigest()

    @cached_property
    def _first_rows(self) -> np.ndarray:
        return np.cumsum(self.shards.rows) - self.shards.rows

    def _kept_rows(self, shard: int) -> np.ndarray:
        """Returns the row numbers in a shard, int64, that belong to the split."""
        rows = np.arange(self.shards.rows[shard])
        return rows if self.hold_out is None else rows[self.hold_out.keeps(rows + self._first_rows[shard])]

    def limit(self, count: int, seed: int) -> int:
        """Keeps `count` rows, of as few shards as hold them, drawn by `seed`; returns how many shards these are."""
        drawn = np.random.default_rng(seed).permutation(len(self.counts))
        before = np.cumsum(self.counts[drawn]) - self.counts[drawn]
        kept = np.clip(count - before, 0, self.counts[drawn])
        self.counts = self.counts.copy()
        self.counts[drawn] = kept
        return int(np.count_nonzero(kept))

    def read(self, shard: int, first: int = 0) -> Iterator[Row]:
        """Yields the rows of a shard that belong to the split, from the one numbered `first` among them on.

        Where the network fails it tries again from the row at hand. Raises `UserError` where it fails for minutes, and
        for a shard that is damaged or gone.
        """
        wanted = self._kept_rows(shard)[: self.counts[shard]]
        pauses = iter(_PAUSES)
        while first < len(wanted):
            try:
                for row in self._read_once(shard, wanted[first:]):
                    yield row
                    first += 1
                    pauses = iter(_PAUSES)
            except Exception as error:  # network clients and Arrow share no class of errors
                if not is_passing(error) and not isinstance(error, DAMAGE):
                    raise
                pause = next(pauses, None) if is_passing(error) else None
                if pause is None:
                    raise UserError(
                        f"{self.name} cannot be read on: {first_line(error)}; the same command resumes from the last"
                        " checkpoint."
                    ) from error
                time.sleep(pause)

    def _read_once(self, shard: int, wanted: np.ndarray) -> Iterator[Row]:
        """Yields the rows numbered `wanted` in their shard, int64, in order."""
        number, position = int(wanted[0]), 0
        for images, labels in self.shards.read(shard, number):
            chosen = []
            while position < len(wanted) and wanted[position] < number + len(images):
                chosen.append(int(wanted[position]) - number)
                position += 1
            if chosen:
                rows = [int(self._first_rows[shard]) + number + offset for offset in chosen]
                class_ids = self.to_class_ids(labels.take(chosen), rows)
                yield from map(Row, [images[offset] for offset in chosen], class_ids, rows)
            number += len(images)
            if position == len(wanted):
                return
        raise UserError(f"{self.name}: a shard has fewer rows than was counted; it has been written anew.")
