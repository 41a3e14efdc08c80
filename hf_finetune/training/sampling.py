"""The random order of the training images in an epoch, in which each image counts once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, Protocol, cast

import torch
from torch.utils.data import Dataset, Sampler

from hf_finetune.data.batches import NOT_COUNTED

_CHUNK = 4096  # rows that are Python numbers at a time


class EpochSampler(Sampler[int]):
    """Rows in the random order of an epoch, which is that of Accelerate's sampler for the same seed.

    The order is a function of seed and epoch alone, so a resumed run skips to where it was interrupted. The stock
    sampler makes a list of Python numbers of the whole order, 36 MB for a million rows; this one makes a chunk at a
    time. Where several ranks need batches of one size, the order is filled up with rows of its beginning, each given as
    `-1 - row`, by which `CountedOnce` recognizes it.
    """

    def __init__(self, count: int, seed: int, multiple: int = 1) -> None:
        """Create the sampler, for epoch 0.

        Args:
            count: The number of rows.
            seed: What the order depends on, with the epoch.
            multiple: The order is filled up to a multiple of this number.
        """
        self.count = count
        self.seed = seed
        self.repeats = -count % multiple
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of rows, with those that fill up."""
        return self.count + self.repeats

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of the epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.count, generator=generator)
        for rows in torch.split(order, _CHUNK):
            yield from rows.tolist()
        for position in range(self.repeats):
            yield -1 - int(order[position % self.count])


class Batched(Protocol):
    """A dataset that returns whole batches."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitems__(self, rows: Sequence[int], /) -> dict[str, torch.Tensor]:
        """Return a batch of rows, with its `labels`, int64 (batch,)."""


class CountedOnce(Dataset[dict[str, torch.Tensor]]):
    """A dataset whose repeated images, the rows below 0, have a label that the loss leaves out.

    Accelerate fills up an uneven last batch with repeats that count like any image. The optimizer step would then
    depend on the number of ranks.
    """

    def __init__(self, dataset: Batched) -> None:
        """Wrap a dataset."""
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.dataset)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return a batch; the labels of rows below 0 are -100."""
        given = torch.as_tensor(rows)
        repeated = given < 0
        batch = self.dataset.__getitems__(torch.where(repeated, -1 - given, given).tolist())
        return {**batch, "labels": batch["labels"].masked_fill(repeated, NOT_COUNTED)}


class LastTwoTogether(Sampler[Any]):
    """An order whose last two rows come as one pair, so that the loader's last batch takes one image more.

    The stock loader divides an order into batches of one size. A last image that is alone thus joins the batch before
    it, whatever makes the order. `Unpaired` takes the pair apart.
    """

    def __init__(self, sampler: Sampler[int]) -> None:
        """Wrap an order of at least two rows."""
        self.sampler = sampler

    def __len__(self) -> int:
        """Return the number of rows, of which a pair is one."""
        return len(cast(Sized, self.sampler)) - 1

    def __iter__(self) -> Iterator[int | tuple[int, ...]]:
        """Yield the rows of the epoch, the last two as a pair."""
        rows = iter(self.sampler)
        for _ in range(len(self) - 1):
            yield next(rows)
        yield tuple(rows)


class Unpaired(Dataset[dict[str, torch.Tensor]]):
    """A dataset that is asked for rows of which the last may be a pair of rows."""

    def __init__(self, dataset: Batched) -> None:
        """Wrap a dataset."""
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.dataset)

    def __getitems__(self, rows: Sequence[int | tuple[int, ...]]) -> dict[str, torch.Tensor]:
        """Return a batch, which has one image more than `rows` where there is a pair."""
        flat = [one for row in rows for one in (row if isinstance(row, tuple) else (row,))]
        return self.dataset.__getitems__(flat)
