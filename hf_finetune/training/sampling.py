"""The random order of the training images in an epoch, in which each image counts once, or as its class asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from hf_finetune.data.batches import NOT_COUNTED
from hf_finetune.data.transforms.randomness import draw_keys, split_keys

_CHUNK = 4096  # rows that are Python numbers at a time
_CLASS_STREAM = 0xC1A  # of the keys that order the images of a class; those of transforms count from 0


class ClassQuotas:
    """The rows that an epoch shows where each class has a number of its own.

    The rows of a class are gone through again and again, each time in another order, and an epoch continues where the
    one before it has ended. So over a run the images of a class are seen equally often, but for one. The rows of an
    epoch are a function of seed and epoch alone.
    """

    def __init__(self, labels: npt.NDArray[np.int64], quotas: npt.NDArray[np.int64], seed: int) -> None:
        """Divide the rows by class.

        Args:
            labels: The class ids of all rows, (rows,).
            quotas: The number of rows of each class in an epoch, (classes,); 0 for a class without images.
            seed: What the orders depend on, with the epoch.
        """
        self.count = int(quotas.sum())
        images = np.bincount(labels[labels >= 0], minlength=len(quotas))
        self.times = quotas / np.maximum(images, 1)
        """How often an epoch shows an image of each class, float64 (classes,)."""
        self._quotas, self._seed, self._total = quotas.tolist(), seed, len(labels)
        by_class = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
        self._rows = np.split(by_class, np.cumsum(images)[:-1])

    def rows(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the rows of an epoch, int64 (count,), class by class; `ImageBatches` says what repetitions are."""
        parts: list[npt.NDArray[np.int64]] = []
        for rows, quota in zip(self._rows, self._quotas, strict=True):
            if quota:
                passed, start = divmod(epoch * quota, len(rows))
                parts += self._of_class(rows, passed, start, quota)
        return np.concatenate(parts)

    def _of_class(
        self, rows: npt.NDArray[np.int64], passed: int, start: int, quota: int
    ) -> list[npt.NDArray[np.int64]]:
        """Return `quota` rows of a class from place `start` of its order number `passed` on."""
        whole, end = divmod(start + quota, len(rows))
        if whole == 0:
            return [self._ordered(rows, passed)[start:end]]
        repetitions = np.arange(1, whole)[:, None] * self._total  # of orders that are shown whole, in any order
        last = self._ordered(rows, passed + whole)[:end] if end else rows[:0]
        return [self._ordered(rows, passed)[start:], (rows + repetitions).ravel(), last + whole * self._total]

    def _ordered(self, rows: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.int64]:
        keys = split_keys(draw_keys(self._seed, number, torch.from_numpy(rows)), _CLASS_STREAM)
        return rows[np.argsort(keys.numpy())]


class EpochSampler(Sampler[int]):
    """Rows in the random order of an epoch, which is that of Accelerate's sampler for the same seed.

    Each row comes once, or with `ClassQuotas` as often as these say. The order is a function of seed and epoch alone,
    so a resumed run skips to where it was interrupted. The stock sampler makes a list of Python numbers of the whole
    order, 36 MB for a million rows; this one makes a chunk at a time. Where several ranks need batches of one size, the
    order is filled up with rows of its beginning, each given as `-1 - row`, by which `CountedOnce` recognizes it.
    """

    def __init__(self, count: int, seed: int, multiple: int = 1, quotas: ClassQuotas | None = None) -> None:
        """Create the sampler, for epoch 0.

        Args:
            count: The number of rows.
            seed: What the order depends on, with the epoch.
            multiple: The order is filled up to a multiple of this number.
            quotas: Which rows an epoch shows, as many as `count`; None for each row once.
        """
        self.count = count
        self.quotas = quotas
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
        if self.quotas is not None:
            order = torch.from_numpy(self.quotas.rows(self.epoch))[order]
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
