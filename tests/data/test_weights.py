"""A column of weights, and the rows that have none."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.weights import read_weights
from hf_finetune.errors import UserError


def read(values: list[object], column: str = "w") -> list[float]:
    raw = RawDataset({"train": Dataset.from_dict({"w": values})}, source="scans.csv")
    return read_weights(raw, "train", column).tolist()


@pytest.mark.parametrize("values", [[1, 0, 2], [1.0, 0.0, 2.0], ["1", "0", "2e0"]])
def test_weights_are_numbers(values: list[object]) -> None:
    assert read(values) == [1, 0, 2]


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([1, None], "missing"),
        (["1", ""], "missing"),
        ([1.0, -0.5], "-0.5"),
        ([1.0, float("nan")], "nan"),
        ([1.0, float("inf")], "inf"),
        (["1", "much", "x"], "'much', and 1 other rows are wrong too"),
        ([[1], [2]], r"\[1\]"),
    ],
)
def test_a_row_without_a_weight_is_named(values: list[object], what: str) -> None:
    row = 0 if isinstance(values[0], list) else 1
    others = ", and 1 other rows are wrong too" if row == 0 else ""
    line = (
        rf"^weight_column: w of row {row} \(counted from 0\) in split train of scans.csv is {what}{others}; use a num"
    )
    with pytest.raises(UserError, match=line):
        read(values)


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r'no column "weight" in split train\. The columns are w\.$'):
        read([1], "weight")
