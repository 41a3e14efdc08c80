"""Training room: the order in which an epoch visits the training pictures."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

_CHUNK = 4096  # rows that are Python numbers at a time


class EpochSampler(Sampler[int]):
    """Rows in the random order of an epoch: that of Accelerate's sampler for the same seed.

    The stock sampler makes a list of Python numbers of the whole order, 36 MB for a million rows; this one a chunk at a
    time.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        for rows in torch.randperm(self.count, generator=generator).split(_CHUNK):
            yield from rows.tolist()
