"""The order in which an epoch visits the training images, and that each of them counts once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Dataset, Sampler

from hf_finetune.data.batches import NOT_COUNTED

_CHUNK = 4096  # rows that are Python numbers at a time


class EpochSampler(Sampler[int]):
    """Rows in the random order of an epoch: that of Accelerate's sampler for the same seed.

    The stock sampler makes a list of Python numbers of the whole order, 36 MB for a million rows; this one a chunk at a
    time. Where several processes need batches of one size, the order is filled up to a multiple of `multiple` with rows
    of its beginning, each given as `-1 - row`; `CountedOnce` knows them by that.
    """

    def __init__(self, count: int, seed: int, multiple: int = 1) -> None:
        self.count = count
        self.seed = seed
        self.repeats = -count % multiple
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count + self.repeats

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.count, generator=generator)
        for rows in order.split(_CHUNK):
            yield from rows.tolist()
        for position in range(self.repeats):
            yield -1 - int(order[position % self.count])


class CountedOnce(Dataset):
    """A dataset of whole batches whose repeated images, the rows below 0, have a label that the loss leaves out.

    Accelerate fills up an uneven last batch with repeats that count like any image; then its step would depend on the
    number of processes.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        given = torch.as_tensor(rows)
        repeated = given < 0
        batch = self.dataset.__getitems__(torch.where(repeated, -1 - given, given).tolist())
        return {**batch, "labels": batch["labels"].masked_fill(repeated, NOT_COUNTED)}
