"""The column of a table that says how often the images of an epoch are drawn."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hf_finetune.data.columns import arrow_column
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError, did_you_mean


def read_weights(raw: RawDataset, split: str, column: str) -> npt.NDArray[np.float64]:
    """Return the weight of each row of a split, float64 of shape (rows,).

    Args:
        raw: The source's splits.
        split: The split to train on.
        column: The column of weights: numbers of at least 0, or texts of such numbers.

    Raises:
        UserError: There is no such column, or a row has no such number.
    """
    columns = raw.splits[split].column_names
    if column not in columns:
        raise UserError(
            f'weight_column: {raw.source} has no column "{column}" in split {split}.{did_you_mean(column, columns)}'
            f" The columns are {', '.join(columns)}."
        )
    values = arrow_column(raw.splits[split], column).to_pylist()
    weights = np.array([_weight(value) for value in values])
    wrong = np.flatnonzero(np.isnan(weights))
    if len(wrong):
        row = int(wrong[0])
        what = "missing" if values[row] in (None, "") else repr(values[row])
        others = f", and {len(wrong) - 1:,} other rows are wrong too" if len(wrong) > 1 else ""
        raise UserError(
            f"weight_column: {column} of row {row} (counted from 0) in split {split} of {raw.source} is {what}{others};"
            " use a number of at least 0 in each row."
        )
    return weights


def _weight(value: object) -> float:
    """Return a weight, NaN for what is none."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        return math.nan
    return number if 0 <= number < math.inf else math.nan
