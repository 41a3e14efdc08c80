"""A part of the images is held out such that each class has its share there, where images have several classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def iterative_split(
    labels: npt.NDArray[np.bool_], fraction: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide rows into two parts by iterative stratification.

    Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011, algorithm 1: the
    class with the fewest rows that are left is divided first, because later there is no choice for it. Each of its rows
    goes to the part that lacks most of the class, and where both lack as much, to the part that lacks most rows. Rows
    without a class are divided last.

    Args:
        labels: Which classes each row has, bool (rows, classes).
        fraction: The share of the rows to hold out, 0 to 1.
        seed: Decides which rows of a class are held out.

    Returns:
        The row numbers that are kept and those that are held out, each int64 and sorted.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shares = np.array([1 - fraction, fraction])
    left = labels.sum(axis=0)
    lacking_rows = shares * len(labels)
    lacking = shares[:, None] * left  # (parts, classes)
    part = np.full(len(labels), -1)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, len(labels) + 1)))
        for row in order[labels[order, rarest] & (part[order] < 0)].tolist():
            part[row] = chosen = _lacks_most(lacking[:, rarest], lacking_rows)
            lacking[chosen, labels[row]] -= 1
            lacking_rows[chosen] -= 1
            left -= labels[row]
    rest = order[part[order] < 0]
    held_out = min(len(rest), max(0, round(lacking_rows[1])))
    part[rest] = 0
    part[rest[:held_out]] = 1
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def _lacks_most(of_class: npt.NDArray[np.float64], of_rows: npt.NDArray[np.float64]) -> int:
    kept, held_out = of_class
    if abs(kept - held_out) < 1e-9:  # sums of shares that are equal on paper
        kept, held_out = of_rows
    return int(held_out > kept)
