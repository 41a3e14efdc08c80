"""Images that have several classes are divided into parts such that each class has its share of each part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

_EQUAL = 1e-9  # sums of shares that are equal on paper


def iterative_split(labels: npt.NDArray[np.bool_], fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Divide rows into two parts by iterative stratification (`_divide`); rows without a class are divided last.

    Args:
        labels: Which classes each row has, bool (rows, classes).
        fraction: The share of the rows to hold out, 0 to 1.
        seed: Decides which rows of a class are held out.

    Returns:
        The row numbers that are kept and those that are held out, each int64 and sorted.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    sizes = np.ones(len(labels), np.int64)
    part, lacking_rows = _divide(labels.astype(np.int64), sizes, [1 - fraction, fraction], order)
    rest = order[part[order] < 0]
    held_out = min(len(rest), max(0, round(lacking_rows[1])))
    part[rest] = 0
    part[rest[:held_out]] = 1
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def iterative_folds(labels: npt.NDArray[np.bool_], groups: Rows | None, folds: int, seed: int) -> Rows:
    """Divide rows into folds by iterative stratification (`_divide`), whole groups as one.

    Args:
        labels: Which classes each row has, bool (rows, classes).
        groups: The group of each row, which is never divided, int64 of shape (rows,); None without.
        folds: How many folds.
        seed: Decides which rows of a class, or which of equal groups, are in which fold.

    Returns:
        The fold of each row, 0 to folds - 1, int64 of shape (rows,).
    """
    unit_of_row = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(unit_of_row)
    counts = np.zeros((len(sizes), labels.shape[1]), np.int64)
    np.add.at(counts, unit_of_row, labels)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # later there is less choice for large groups
    fold, lacking_rows = _divide(counts, sizes, [1 / folds] * folds, order)
    for unit in order[fold[order] < 0].tolist():
        fold[unit] = chosen = int(np.argmax(lacking_rows))
        lacking_rows[chosen] -= sizes[unit]
    return fold[unit_of_row]


def _divide(counts: Rows, sizes: Rows, shares: Sequence[float], order: Rows) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Give rows, or groups of them, that have a class to parts.

    Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011, algorithm 1: the
    class with the fewest rows that are left is divided first, because later there is no choice for it. Each of its rows
    goes to the part that lacks most of the class, and of those that lack as much, to the one that lacks most rows.

    Args:
        counts: How many rows of each class a unit has, int64 (units, classes).
        sizes: How many rows a unit has, int64 (units,).
        shares: The share of the rows of each part.
        order: The units in the order in which those of a class are given away.

    Returns:
        The part of each unit, -1 for one without a class, int64 (units,), and how many rows each part lacks.
    """
    left = counts.sum(axis=0)
    lacking_rows = np.asarray(shares) * sizes.sum()
    lacking = np.asarray(shares)[:, None] * left  # (parts, classes)
    part = np.full(len(counts), -1, np.int64)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, sizes.sum() + 1)))
        for unit in order[(counts[order, rarest] > 0) & (part[order] < 0)].tolist():
            of_class = lacking[:, rarest]
            part[unit] = chosen = int(np.argmax(np.where(of_class >= of_class.max() - _EQUAL, lacking_rows, -np.inf)))
            lacking[chosen] -= counts[unit]
            lacking_rows[chosen] -= sizes[unit]
            left -= counts[unit]
    return part, lacking_rows
