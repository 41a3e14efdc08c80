"""Which split has which role, the part of train that is held out, and limits on the number of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.data.catalog import DatasetEntry
from hf_finetune.data.iterative_stratification import iterative_split
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError, did_you_mean

# The roles, each with the names of splits that imply it.
ROLES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def split_role(name: str) -> str | None:
    """Return the role that the name of a split implies, in upper or lower case; None where it implies none."""
    return next((role for role, names in ROLES.items() if name.lower() in names), None)


def choose_splits(raw: RawDataset, wanted: Mapping[str, str | None], entry: DatasetEntry | None) -> dict[str, str]:
    """Choose the split for each role.

    The user's choice wins over the catalog's, and the catalog's over a split whose name implies the role.

    Args:
        raw: The source's splits.
        wanted: The user's choice by role; None or no key where there is none.
        entry: The catalog's entry of a named dataset.

    Returns:
        The split's name by role, for the roles that have one, in the order of `ROLES`.

    Raises:
        UserError: A chosen split does not exist, or the names of two splits imply the same role.
    """
    chosen: dict[str, str] = {}
    # A split that the catalog assigns to one role gets no other by its name: some call their test split "validation".
    claimed = {entry.split_of(role) for role in ROLES} if entry else set()
    for role in ROLES:
        name = wanted.get(role)
        if name is not None and name not in raw.splits:
            raise UserError(
                f'{role}_split: {raw.source} has no split "{name}".{did_you_mean(name, raw.splits)}'
                f" It has {', '.join(raw.splits)}."
            )
        expected = entry.split_of(role) if entry else None
        candidates = [split for split in raw.splits if split_role(split) == role and split not in claimed]
        if name is not None:
            chosen[role] = name
        elif expected is not None and expected in raw.splits:
            chosen[role] = expected
        elif len(candidates) > 1:
            raise UserError(
                f"{raw.source}: the splits {' and '.join(candidates)} could both be {role};"
                f" use --{role}_split {candidates[0]} or another."
            )
        elif candidates:
            chosen[role] = candidates[0]
    return chosen


def reference_split(raw: RawDataset, roles: Mapping[str, str], require_train: bool) -> str:
    """Return the split that defines the classes: train, or the first existing one where train may be absent.

    Args:
        raw: The source's splits.
        roles: The chosen split by role.
        require_train: Whether train must exist.

    Raises:
        UserError: There is no such split.
    """
    if "train" not in roles and (require_train or not roles):
        raise UserError(
            f"{raw.source} has no split to train on: it has {', '.join(raw.splits)}; use --train_split NAME."
        )
    return next(roles[role] for role in ROLES if role in roles)


def note_unused_splits(raw: RawDataset, roles: Mapping[str, str]) -> list[str]:
    """Return a note that names the splits without a role, or nothing where all have one."""
    unused = [split for split in raw.splits if split not in roles.values()]
    return [f"Splits not used: {', '.join(unused)}."] if unused else []


def stratified_split(
    labels: npt.NDArray[Any], fraction: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide rows into two parts with the same shares of each class.

    The number of rows held out of each class follows the largest-remainder method (Hamilton's): `fraction` of the
    class, rounded down, and one more for the classes with the largest remainders until `fraction` of all rows is
    reached. Of every class with two rows or more, at least one is held out and at least one is kept. Rows with several
    classes are divided by iterative stratification.

    Args:
        labels: Integers of shape (rows,), or which classes each row has, bool (rows, classes).
        fraction: The share of the rows to hold out, 0 to 1.
        seed: Decides which rows of a class are held out.

    Returns:
        The row numbers that are kept and those that are held out, each int64 and sorted.
    """
    if labels.ndim == 2:
        return iterative_split(labels, fraction, seed)
    generator = np.random.default_rng(seed)
    counts = np.unique(labels, return_counts=True)[1]
    quotas = counts * fraction
    takes = np.floor(quotas).astype(np.int64)
    leftover = round(len(labels) * fraction) - takes.sum()
    takes[np.argsort(takes - quotas, kind="stable")[:leftover]] += 1
    takes = np.minimum(np.maximum(takes, 1), counts - 1)
    held_out = np.zeros(len(labels), dtype=bool)
    # One sort finds the rows of all classes, where a search for each class would take longer.
    for rows, take in zip(np.split(np.argsort(labels, kind="stable"), counts.cumsum()[:-1]), takes, strict=True):
        held_out[generator.permutation(rows)[:take]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def random_subset(count: int, limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Return `limit` of `count` row numbers, drawn by `seed` without repeats: int64, sorted."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])
