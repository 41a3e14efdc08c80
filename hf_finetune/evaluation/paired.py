"""Two models on the same images: McNemar's test, and the interval of the difference of their accuracies.

Both look at the images on which the models differ. Two accuracies whose own intervals overlap may well differ by more
than chance, because the models share the luck of the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_finetune.evaluation.intervals import Interval, wilson_interval

_FEW = 25  # images on which the models differ, below which chi-square is no good approximation


@dataclass(frozen=True)
class PairedCounts:
    """Numbers of images by which of two models is correct.

    Attributes:
        both: Both are.
        only_first: The first is, the second is not.
        only_second: The second is, the first is not.
        neither: Neither is.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedCounts:
        """Count images by whether each model is correct on them, bool (images,) each."""
        groups = (first & second, first & ~second, ~first & second, ~first & ~second)
        return cls(*(int(group.sum()) for group in groups))

    @property
    def images(self) -> int:
        """Number of all images."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def shares(self) -> tuple[float, float]:
        """The share of images on which each model is correct, parts of 1."""
        return (self.both + self.only_first) / self.images, (self.both + self.only_second) / self.images


def mcnemar(counts: PairedCounts) -> tuple[float, str]:
    """Test whether two models are equally accurate (McNemar 1947).

    Images on which the models differ would be correct for either with a chance of a half. Fewer than 25 of them are
    tested by the binomial distribution, two-sided; more by chi-square with one degree of freedom and the continuity
    correction of Edwards 1948, as Dietterich 1998 recommends for classifiers ("Approximate statistical tests for
    comparing supervised classification learning algorithms").

    Returns:
        The p-value, and the name of the test: "exact binomial" or "chi-square".
    """
    fewer, more = sorted((counts.only_first, counts.only_second))
    differing = fewer + more
    if differing < _FEW:
        tail = sum(math.comb(differing, number) for number in range(fewer + 1)) / 2**differing
        return min(1.0, 2 * tail), "exact binomial"
    statistic = max(0, more - fewer - 1) ** 2 / differing
    return math.erfc(math.sqrt(statistic / 2)), "chi-square"


def difference_interval(counts: PairedCounts) -> Interval:
    """Return the 95 % interval of the second accuracy less the first.

    It is made of the Wilson intervals of both and of their correlation: method 10 of Newcombe 1998, "Improved
    confidence intervals for the difference between binomial proportions based on paired data".
    """
    images = counts.images
    first, second = counts.both + counts.only_first, counts.both + counts.only_second
    low_1, high_1 = wilson_interval(first, images)
    low_2, high_2 = wilson_interval(second, images)
    share_1, share_2 = first / images, second / images
    correlation = _correlation(counts, first * (images - first) * second * (images - second))

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    difference = share_2 - share_1
    return (
        difference - reach(share_2 - low_2, high_1 - share_1),
        difference + reach(high_2 - share_2, share_1 - low_1),
    )


def _correlation(counts: PairedCounts, product: int) -> float:
    """Return the correlation of the answers, less half an image where it is positive; 0 where an answer is constant."""
    if product == 0:
        return 0.0
    numerator: float = counts.both * counts.neither - counts.only_first * counts.only_second
    if numerator > 0:
        numerator = max(numerator - counts.images / 2, 0.0)
    return numerator / math.sqrt(product)
