"""Which rows an epoch shows where each row has a weight of its own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from hf_finetune.data.transforms.randomness import draw_keys, uniform_draws

_ROW_STREAM = -2  # in place of the epoch, in the keys that put the rows in order
_STEP = (math.sqrt(5) - 1) / 2  # the golden ratio: its multiples, modulo 1, are spread the most evenly


class RowQuotas:
    """The rows that an epoch shows where each is shown in proportion to a weight.

    They are drawn by systematic sampling (Madow, "On the theory of systematic sampling, II", Annals of Mathematical
    Statistics 20, 1949): the rows stand in a random order on a line, each as long as its share of the epoch, and points
    at a distance of 1 choose them. So an epoch shows each row its share of times, rounded down or up. From epoch to
    epoch the points move by the golden ratio, so that over a run the rounding evens out. The rows of an epoch are a
    function of seed and epoch alone.
    """

    def __init__(self, weights: npt.NDArray[np.float64], seed: int) -> None:
        """Put the rows in their order.

        Args:
            weights: The weight of each row, at least 0, float64 (rows,); one must be above 0.
            seed: What the order and the points depend on.
        """
        self.count = len(weights)
        self._order = np.argsort(draw_keys(seed, _ROW_STREAM, torch.arange(self.count)).numpy(), kind="stable")
        ends = np.cumsum(weights[self._order])
        self._ends = ends / ends[-1] * self.count
        self._begin = float(uniform_draws(draw_keys(seed, _ROW_STREAM, torch.tensor([self.count])), 0, 1))
        self._times = weights * (self.count / ends[-1])

    def rows(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the rows of an epoch, int64 (count,), in an order of no meaning; `ImageBatches` knows repetitions."""
        first = (self._begin + epoch * _STEP) % 1
        points = np.ceil(self._ends - first).astype(np.int64)  # that lie before the end of each row
        times = np.diff(points, prepend=0)
        repetition = np.arange(self.count) - np.repeat(np.cumsum(times) - times, times)
        return np.repeat(self._order, times) + repetition * self.count

    def row_times(self) -> npt.NDArray[np.float64]:
        """Return how often an epoch shows each row on average, float64 (rows,)."""
        return self._times
