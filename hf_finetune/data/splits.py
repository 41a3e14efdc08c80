"""Which split plays which part, the part of train that is held out, and limits on the number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hf_finetune.data.catalog import DatasetEntry
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError, did_you_mean

ROLES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def split_role(name: str) -> str | None:
    """Returns the part that a split of this name plays, whatever its case, or None where the name does not say it."""
    return next((role for role, names in ROLES.items() if name.lower() in names), None)


def choose_splits(raw: RawDataset, wanted: Mapping[str, str | None], entry: DatasetEntry | None) -> dict[str, str]:
    """Returns the split's name for each of "train", "validation" and "test" that there is.

    `wanted` is the user's own choice by role and must be there; then the catalog's, then the one whose name says it.
    Raises `UserError` for a name that is not there, or where two splits' names say the same.
    """
    chosen: dict[str, str] = {}
    # What the catalog takes for one role plays no other, whatever its name: some call their test split "validation".
    claimed = {getattr(entry, f"{role}_split", None) for role in ROLES}
    for role in ROLES:
        name = wanted.get(role)
        if name is not None and name not in raw.splits:
            raise UserError(
                f'{role}_split: {raw.source} has no split "{name}".{did_you_mean(name, raw.splits)}'
                f" It has {', '.join(raw.splits)}."
            )
        expected = getattr(entry, f"{role}_split", None)
        candidates = [split for split in raw.splits if split_role(split) == role and split not in claimed]
        if name is not None:
            chosen[role] = name
        elif expected in raw.splits:
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
    """Returns the split that says which classes there are: train, or the first there is where train may be absent.

    Raises `UserError` where there is none.
    """
    if "train" not in roles and (require_train or not roles):
        raise UserError(
            f"{raw.source} has no split to train on: it has {', '.join(raw.splits)}; use --train_split NAME."
        )
    return next(roles[role] for role in ROLES if role in roles)


def note_unused_splits(raw: RawDataset, roles: Mapping[str, str]) -> list[str]:
    """Returns the note that names the splits without a role, or nothing."""
    unused = [split for split in raw.splits if split not in roles.values()]
    return [f"Splits not used: {', '.join(unused)}."] if unused else []


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row numbers (kept, held out), each sorted, int64, the same for the same seed.

    `labels` is int64 of shape (rows,). Held out are `fraction` of all rows, rounded, and of each class too, up to
    rounding; but of every class of two rows or more, one at least is held out and one at least kept.
    """
    generator = np.random.default_rng(seed)
    counts = np.unique(labels, return_counts=True)[1]
    quotas = counts * fraction
    takes = np.floor(quotas).astype(np.int64)
    # The largest remainders get the rows that rounding down has left.
    leftover = round(len(labels) * fraction) - takes.sum()
    takes[np.argsort(takes - quotas, kind="stable")[:leftover]] += 1
    takes = np.minimum(np.maximum(takes, 1), counts - 1)
    held_out = np.zeros(len(labels), dtype=bool)
    # One sort, instead of one search a class, finds the rows of all classes.
    for rows, take in zip(np.split(np.argsort(labels, kind="stable"), counts.cumsum()[:-1]), takes, strict=True):
        held_out[generator.permutation(rows)[:take]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def random_subset(count: int, limit: int, seed: int) -> np.ndarray:
    """Returns `limit` of `count` row numbers, drawn without repeats and sorted, int64, the same for the same seed."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])
