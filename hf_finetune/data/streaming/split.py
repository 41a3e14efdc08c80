"""A split in shards, whose rows are read in order from any position, and again where the network fails."""

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

from hf_finetune.data.streaming.shards import DAMAGE, Shards, is_temporary
from hf_finetune.data.transforms.randomness import draw_keys, uniform_draws
from hf_finetune.errors import UserError, first_line

# Seconds to wait before each further attempt to read a shard, in addition to the shorter retries of huggingface_hub.
_PAUSES = (1, 4, 15, 60, 120)
_HOLD_OUT_STREAM = 0x4C0  # the stream of the draws for holding out; those of transforms count from 0


class Row(NamedTuple):
    """A row of a stream.

    Attributes:
        image: The encoded image as {"bytes", "path"}.
        label: The class id, or -100 for an image that counts for no loss or metric; or which classes the image has,
            bool (classes,).
        sample_index: The row's number in the source's split.
    """

    image: dict[str, Any]
    label: Any
    sample_index: int


@dataclass(frozen=True)
class HoldOut:
    """The part of the rows of train that is held out, drawn row by row.

    Attributes:
        fraction: The expected share of the rows that is held out.
        seed: The seed of the draws.
        taken: Whether a split consists of the rows that are held out, or of the others.
    """

    fraction: float
    seed: int
    taken: bool

    def keeps(self, sample_index: np.ndarray) -> np.ndarray:
        """Return which rows belong to the split, bool of shape (rows,), from their numbers, int64 (rows,)."""
        draws = uniform_draws(draw_keys(self.seed, 0, torch.from_numpy(sample_index)), _HOLD_OUT_STREAM, 1)[:, 0]
        kept: np.ndarray = (draws < self.fraction).numpy() == self.taken
        return kept


@dataclass
class StreamedSplit:
    """A split in shards. The numbers of rows are known; images and labels are read when they are needed.

    Attributes:
        shards: The shards of the source's split.
        to_class_ids: Maps labels to class ids; the row numbers, its second argument, are for messages.
        name: What messages call the split.
        buffer_size: The number of rows that each process may keep in memory to shuffle them.
        hold_out: The part of the rows that the split consists of; None for all.
        counts: The number of rows of each shard that belong to the split, int64 of shape (shards,).
    """

    shards: Shards
    to_class_ids: Callable[[pa.Array, Sequence[int]], list[Any]]
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
        """A hash of the numbers of rows and the sizes of the files, whatever their location."""
        sizes = np.array([file.size for file in self.shards.files], np.int64)
        return hashlib.sha256(self.counts.tobytes() + sizes.tobytes()).hexdigest()

    @cached_property
    def _first_rows(self) -> np.ndarray:
        first_rows: np.ndarray = np.cumsum(self.shards.rows) - self.shards.rows
        return first_rows

    def _kept_rows(self, shard: int) -> np.ndarray:
        """Return the row numbers in a shard, int64, that belong to the split."""
        rows: np.ndarray = np.arange(self.shards.rows[shard])
        return rows if self.hold_out is None else rows[self.hold_out.keeps(rows + self._first_rows[shard])]

    def limit(self, count: int, seed: int) -> int:
        """Keep `count` rows, from as few shards as possible, and return the number of these shards.

        Args:
            count: The number of rows to keep.
            seed: Decides which shards are kept.
        """
        drawn = np.random.default_rng(seed).permutation(len(self.counts))
        before = np.cumsum(self.counts[drawn]) - self.counts[drawn]
        kept = np.clip(count - before, 0, self.counts[drawn])
        self.counts = self.counts.copy()
        self.counts[drawn] = kept
        return int(np.count_nonzero(kept))

    def read(self, shard: int, first: int = 0) -> Iterator[Row]:
        """Yield the rows of a shard that belong to the split. Where the network fails, continue from the same row.

        Args:
            shard: The number of the shard.
            first: The row to start at, counted among the shard's rows that belong to the split.

        Raises:
            UserError: The network fails for minutes, or the shard is damaged or missing.
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
                if not is_temporary(error) and not isinstance(error, DAMAGE):
                    raise
                pause = next(pauses, None) if is_temporary(error) else None
                if pause is None:
                    raise UserError(
                        f"{self.name} cannot be read any further: {first_line(error)}; the same command resumes from"
                        " the last checkpoint."
                    ) from error
                time.sleep(pause)

    def _read_once(self, shard: int, wanted: np.ndarray) -> Iterator[Row]:
        """Yield the rows with the numbers `wanted` in their shard, int64, in ascending order."""
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
        raise UserError(f"{self.name}: a shard has fewer rows than were counted; its file has been replaced.")
