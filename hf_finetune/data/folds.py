"""Folds of train for cross-validation, and divisions that keep the images of a group together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hf_finetune.data.columns import arrow_column
from hf_finetune.data.iterative_stratification import iterative_folds
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError, did_you_mean

Rows = npt.NDArray[np.int64]

_MOST_PARTS = 100  # of which some are held out


def read_groups(raw: RawDataset, roles: Mapping[str, str], column: str) -> dict[str, Rows]:
    """Return the group of each row, such as the patient of an image, as an integer.

    Args:
        raw: The source's splits.
        roles: The split of each role.
        column: The column of groups: texts or numbers. The split `train` must have it.

    Returns:
        By role, int64 of shape (rows,); equal groups have one integer in all roles. Roles without the column are
        missing.

    Raises:
        UserError: There is no such column, or a row has no group.
    """
    values: dict[str, pa.ChunkedArray] = {}
    for role, split in roles.items():
        columns = raw.splits[split].column_names
        if column in columns:
            values[role] = _texts(raw, split, column)
        elif role == "train":
            raise UserError(
                f'group_column: {raw.source} has no column "{column}" in split {split}.'
                f"{did_you_mean(column, columns)} The columns are {', '.join(columns)}."
            )
    names = pc.unique(pa.chunked_array([chunk for texts in values.values() for chunk in texts.chunks], pa.string()))
    return {
        role: np.asarray(pc.index_in(texts, value_set=names).to_numpy(), np.int64) for role, texts in values.items()
    }


def _texts(raw: RawDataset, split: str, column: str) -> pa.ChunkedArray:
    values = arrow_column(raw.splits[split], column)
    try:
        texts = values.cast(pa.string())
    except pa.ArrowException as error:
        raise UserError(
            f"group_column: {column} of {raw.source} is {values.type}; a group is a text or a number."
        ) from error
    missing = pc.or_(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True), pc.equal(texts, "nan"))
    missing = pc.fill_null(missing, True)
    count = pc.sum(missing).as_py() or 0
    if count:
        rows = "1 row has" if count == 1 else f"{count:,} rows have"
        first = pc.index(missing, True).as_py()
        raise UserError(
            f"group_column: {rows} no {column} in split {split} of {raw.source}, the first is row {first} (counted from"
            " 0); fill them in, or remove these rows."
        )
    return texts


def fold_of_rows(labels: npt.NDArray[Any], groups: Rows | None, folds: int, seed: int) -> Rows:
    """Divide rows into folds with the same shares of each class, as far as groups allow.

    It is scikit-learn's StratifiedKFold or, with groups, StratifiedGroupKFold, which deals out the groups greedily.
    Where rows have several classes, it is iterative stratification, of whole groups.

    Args:
        labels: Class ids of shape (rows,), or which classes each row has, bool (rows, classes).
        groups: The group of each row, which is never divided, int64 of shape (rows,); None without.
        folds: How many folds, at least 2.
        seed: Shuffles the rows of a class, or the groups.

    Returns:
        The fold of each row, 0 to folds - 1, int64 of shape (rows,).

    Raises:
        UserError: There are fewer groups than folds, or every class has fewer rows.
    """
    if groups is not None and (count := len(np.unique(groups))) < folds:
        raise UserError(f"There are {count:,} groups for {folds} folds; use at most as many folds as groups.")
    images = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels)
    if groups is None and (most := int(images.max())) < folds:
        raise UserError(f"There are {folds} folds, and no class has more than {most:,} images; use fewer folds.")
    if labels.ndim == 2:
        return iterative_folds(labels, groups, folds, seed)
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # half a second, and only folds need it

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    numbers = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():  # a class with fewer rows than folds is noted where it is missing
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, rows) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            numbers[rows] = number
    return numbers


def group_split(labels: npt.NDArray[Any], groups: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Hold out about a fraction of rows as whole groups, with the same shares of each class as far as possible.

    The rows are divided into parts, some of which are held out: 0.1 is 1 of 10, 0.15 is 3 of 20. There are at most as
    many parts as groups, and 100.

    Args:
        labels: Class ids of shape (rows,), or which classes each row has, bool (rows, classes).
        groups: The group of each row, int64 of shape (rows,).
        fraction: The share of the rows to hold out, above 0 and below 1.
        seed: Shuffles the groups.

    Returns:
        The row numbers that are kept and those that are held out, each int64 and sorted.

    Raises:
        UserError: There is only one group.
    """
    count = len(np.unique(groups))
    if count < 2:
        raise UserError("All images are of one group, so none can be held out; use --validation_fraction 0.")
    most = min(count, _MOST_PARTS)
    share = Fraction(fraction).limit_denominator(most)
    parts = most if share.denominator == 1 else share.denominator  # 1: nearer to nothing or to all than to a part
    taken = min(max(1, round(share * parts)), parts - 1)
    held_out = fold_of_rows(labels, groups, parts, seed) < taken
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def note_shared_groups(groups: Mapping[str, Rows], column: str) -> list[str]:
    """Return a note for each given split that has images of a group of train: such figures flatter the model."""
    notes = []
    for role in ("validation", "test"):
        if role not in groups:
            continue
        shared = np.isin(groups[role], groups["train"])
        if shared.any():
            count = len(np.unique(groups[role][shared]))
            notes.append(
                f"Warning: {count:,} of {len(np.unique(groups[role])):,} groups ({column}) of {role} are in train too,"
                f" {shared.sum():,} images: its figures are higher than those of new groups."
            )
    return notes
