"""Two models on the images of each value of a column, by hand and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hf_finetune.evaluation.paired_slices import paired_slice_lines, paired_slices


def test_each_value_is_counted_and_tested_alone() -> None:
    values = ["one"] * 20 + ["two"] * 10
    first = np.array([True] * 12 + [False] * 8 + [True] * 5 + [False] * 5)
    second = np.array([True] * 10 + [False] * 2 + [True] * 7 + [False] + [True] * 4 + [False] * 6)
    order = np.random.default_rng(0).permutation(30)
    one, two = paired_slices([values[place] for place in order], first[order], second[order])
    assert one == {
        "value": "one", "images": 20, "first": 0.6, "second": 0.85, "only_first": 2, "only_second": 7,
        "p_value": pytest.approx(stats.binomtest(2, 9).pvalue),
    }  # fmt: skip
    assert (two["value"], two["images"], two["only_first"], two["only_second"]) == ("two", 10, 1, 0)
    assert two["p_value"] == 1.0
    lines = paired_slice_lines({"camera": [one, two]})
    assert lines[1].split() == ["camera", "A", "B", "only", "A", "only", "B", "p", "images"]
    assert lines[2].split() == ["one", "60.00", "%", "85.00", "%", "2", "7", "0.18", "20"]


def test_values_that_no_test_can_tell_apart_are_one_row() -> None:
    """Six images on which one model alone is correct are the fewest whose p-value is below 0.05."""
    values = ["five"] * 5 + ["six"] * 6 + ["three"] * 3
    rows = paired_slices(values, np.ones(14, bool), np.zeros(14, bool))
    assert [(row["value"], row["images"], row["only_first"]) for row in rows] == [
        ("six", 6, 6), ("(2 other values)", 8, 8),
    ]  # fmt: skip
    assert rows[0]["p_value"] == pytest.approx(0.03125)
    (alone,) = paired_slices(["a"] * 5, np.ones(5, bool), np.zeros(5, bool))
    assert alone["value"] == "(1 other value)" and alone["p_value"] == pytest.approx(0.0625)
