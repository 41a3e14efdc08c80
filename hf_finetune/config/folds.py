"""The keys that divide train for validation: folds of cross-validation, and groups that stay together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hf_finetune.errors import UserError

if TYPE_CHECKING:
    from hf_finetune.config.data import DataArguments


def parse_fold(fold: str) -> tuple[int, int]:
    """Return the number of a fold, from 1, and the number of folds.

    Args:
        fold: The recipe's `fold`, such as "2/5".

    Raises:
        UserError: It is written otherwise, or there is no such fold.
    """
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", fold)
    number, folds = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= folds or folds < 2:
        raise UserError(f"fold is {fold}; use the number of a fold and how many there are, such as 1/5.")
    return number, folds


def check_division(data: DataArguments) -> None:
    """Check the keys that say which part of train is held out for validation."""
    if data.fold is not None:
        parse_fold(data.fold)
        if data.validation_split is not None:
            raise UserError(
                f"validation_split is {data.validation_split}, and fold {data.fold} of train takes its place; leave one"
                " of them out."
            )
    for name in ("fold", "group_column"):
        if data.streaming and getattr(data, name) is not None:
            raise UserError(f"{name} divides images before training, which are streamed; leave --streaming out.")
    if data.streaming and data.weight_column is not None:
        raise UserError("weight_column is read before training, and images are streamed; leave one of them out.")
    if data.streaming and data.slice_columns:
        raise UserError("slice_columns are read before training, and images are streamed; leave one of them out.")
