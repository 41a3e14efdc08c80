"""The random order of an epoch: each training image once, as its class or weight asks, or several times in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from hf_finetune.data.batches import NOT_COUNTED
from hf_finetune.data.transforms.randomness import draw_keys, split_keys

_CHUNK = 4096  # rows that are Python numbers at a time
_CLASS_STREAM = -1  # in place of the epoch, in the keys that order the images of a class


class Quotas(Protocol):
    """Which rows an epoch shows, as a function of the epoch: `ClassQuotas`, or `row_quotas.RowQuotas`."""

    @property
    def count(self) -> int:
        """The number of rows of an epoch."""

    def rows(self, epoch: int, /) -> npt.NDArray[np.int64]:
        """Return the rows of an epoch, int64 (count,), in an order of no meaning."""

    def row_times(self) -> npt.NDArray[np.float64]:
        """Return how often an epoch shows each row on average, float64 (rows,)."""


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
        self._labels = labels
        self._images = np.bincount(labels[labels >= 0], minlength=len(quotas))
        self.times = quotas / np.maximum(self._images, 1)
        """How often an epoch shows an image of each class, float64 (classes,)."""
        self._quotas, self._seed, self._total = quotas, seed, len(labels)
        self._rows = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]  # class by class
        self._classes = labels[self._rows]
        self._places = np.arange(len(self._rows)) - np.repeat(np.cumsum(self._images) - self._images, self._images)

    def rows(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the rows of an epoch, int64 (count,), in an order of no meaning; `ImageBatches` knows repetitions."""
        # Each class is somewhere in its order number `passed`, and comes `whole` orders further, to place `end`.
        passed, start = np.divmod(epoch * self._quotas, np.maximum(self._images, 1))
        whole, end = np.divmod(start + self._quotas, np.maximum(self._images, 1))
        of_class, place = self._classes, self._places
        is_first = (place >= start[of_class]) & ((place < end[of_class]) | (whole[of_class] > 0))
        first = self._ordered(passed)[is_first]
        is_last = (place < end[of_class]) & (whole[of_class] > 0)
        last = (self._ordered(passed + whole) + whole[of_class] * self._total)[is_last]
        # The orders between the two are shown whole, so that the order does not matter.
        times = np.maximum(whole - 1, 0)[of_class]
        repetition = 1 + np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        return np.concatenate([first, np.repeat(self._rows, times) + repetition * self._total, last])

    def row_times(self) -> npt.NDArray[np.float64]:
        """Return how often an epoch shows each row on average, float64 (rows,)."""
        return np.where(self._labels >= 0, self.times[self._labels], 0.0)

    def _ordered(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows class by class, each class in the order of its number, int64 (classes,)."""
        keys = draw_keys(self._seed, _CLASS_STREAM, torch.from_numpy(self._rows))
        keys = split_keys(keys, torch.from_numpy(numbers[self._classes]))
        return self._rows[np.lexsort((keys.numpy(), self._classes))]


@dataclass(frozen=True)
class Repetition:
    """Each image several times in one batch, augmented anew each time, and fewer images in an epoch of the same length.

    Hoffer et al., "Augment your batch: improving generalization through instance repetition", CVPR 2020,
    arXiv:1901.09335. A batch has the images that the sampler of DeiT (`RASampler`; Touvron et al. 2021,
    arXiv:2012.12877) gives it, where it is a multiple of `times`. There the copies of an image follow each other; here
    each image of a batch comes before the first copy of any, because MixUp and CutMix mix neighbours.

    Attributes:
        times: How often an image is in a batch.
        batch: Images of an optimizer step, over all ranks. Where it is no multiple, the last copies are left out.
    """

    times: int
    batch: int

    @property
    def images(self) -> int:
        """How many images a full batch shows."""
        return -(-self.batch // self.times)

    def shown(self, count: int) -> int:
        """Return how many images an epoch of `count` rows shows."""
        whole, rest = divmod(count, self.batch)
        return whole * self.images + -(-rest // self.times)

    def rows(self, order: torch.Tensor) -> torch.Tensor:
        """Return the rows of an epoch as `ImageBatches` knows repetitions, int64, of the shape of `order`.

        Args:
            order: All rows in random order, int64 (rows,).
        """
        number, place = torch.arange(len(order)).div(self.batch, rounding_mode="floor"), torch.arange(len(order))
        place -= number * self.batch
        size = (len(order) - number * self.batch).clamp(max=self.batch)  # of the batch; the last one may be smaller
        images = (size + self.times - 1).div(self.times, rounding_mode="floor")
        copy = place.div(images, rounding_mode="floor")
        return order[number * self.images + place - copy * images] + copy * len(order)


class EpochSampler(Sampler[int]):
    """Rows in the random order of an epoch, which is that of Accelerate's sampler for the same seed.

    Each row comes once, with `Quotas` or `Repetition` as often as these say. The order is a function of seed and
    epoch alone, so a resumed run skips to where it was interrupted. The stock sampler makes a list of Python numbers of
    the whole order, 36 MB for a million rows; this one makes a chunk at a time. Where several ranks need batches of one
    size, the order is filled up with rows of its beginning, each given as `-1 - row`, by which `CountedOnce` recognizes
    it.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        multiple: int = 1,
        quotas: Quotas | None = None,
        repetition: Repetition | None = None,
    ) -> None:
        """Create the sampler, for epoch 0.

        Args:
            count: The number of rows.
            seed: What the order depends on, with the epoch.
            multiple: The order is filled up to a multiple of this number.
            quotas: Which rows an epoch shows, as many as `count`; None for each row once.
            repetition: How often an image is in a batch; None for once. Not together with quotas.
        """
        self.count = count
        self.quotas = quotas
        self.repetition = repetition
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
        order = torch.randperm(self.count, generator=generator, dtype=torch.int32)
        if self.quotas is not None:
            order = torch.from_numpy(self.quotas.rows(self.epoch))[order]
        if self.repetition is not None:
            order = self.repetition.rows(order)
        for rows in torch.split(order, _CHUNK):
            yield from rows.tolist()
        for position in range(self.repeats):
            yield -1 - int(order[position % self.count])


class Batched(Protocol):
    """A dataset that returns whole batches."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitems__(self, rows: Sequence[int], /) -> dict[str, torch.Tensor]:
        """Return a batch of rows, with its `labels` (`data.stages.as_labels`)."""


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
        labels = batch["labels"].clone()
        labels[repeated] = NOT_COUNTED  # of several labels the whole row
        return {**batch, "labels": labels}


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
