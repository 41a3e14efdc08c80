"""Figures of slices, and suspects among labels, on examples that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hf_finetune.evaluation.intervals import wilson_interval
from hf_finetune.evaluation.label_suspects import label_suspects
from hf_finetune.evaluation.slices import slice_figures


def test_each_value_is_counted_and_few_images_are_said_to_be_few():
    values = ["a"] * 400 + ["b"] * 100 + ["c"] * 4
    correct = np.array([True] * 380 + [False] * 20 + [True] * 70 + [False] * 30 + [True] * 4)
    first, second, third = slice_figures(values, correct)
    assert (first["value"], first["images"], first["correct"], first["accuracy"]) == ("a", 400, 380, 0.95)
    assert first["interval"] == wilson_interval(380, 400) and not first["too_few"] and not first["below"]
    assert second["accuracy"] == 0.7 and second["below"]  # of 90 % of all
    assert third["too_few"] and not third["below"]
    assert sum(row["images"] for row in (first, second, third)) == len(values)


def test_the_rest_of_many_values_are_one():
    values = [f"patient {number}" for number in range(60)] + ["most"] * 5
    rows = slice_figures(values, np.arange(65) % 2 == 0)
    assert len(rows) == 51 and rows[0]["value"] == "most" and rows[-1]["value"] == "(11 other values)"
    assert sum(row["images"] for row in rows) == 65 and sum(row["correct"] for row in rows) == 33


def test_a_label_is_a_suspect_where_the_model_is_sure_of_another_class():
    # Mean probability of the label: class 0: (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1: (0.7 + 0.5) / 2 = 0.6.
    whole = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.5, 0.5]], np.float32)
    labels = np.array([0, 0, 0, 1, 1])
    classes = np.argsort(-whole, axis=1, kind="stable").astype(np.int32)
    own = whole[np.arange(5), labels]
    found = label_suspects(labels, own, classes, np.take_along_axis(whole, classes, axis=1), 3)
    assert found.tolist() == [2]


def test_suspects_are_what_cleanlab_s_definition_gives():
    """Against the definition, written out: the likeliest of the classes that reach their mean is not the label."""
    draws = np.random.default_rng(0)
    whole = draws.dirichlet([0.4] * 6, 300).astype(np.float32)
    labels = np.array([draws.choice(6, p=row / row.sum()) for row in whole.astype(np.float64)])
    labels[labels == 5] = 4  # no image has the last class
    own = whole[np.arange(300), labels]
    means = np.array([own[labels == c].mean() if (labels == c).any() else np.inf for c in range(6)])
    expected = set()
    for image in range(300):
        reached = [c for c in range(6) if whole[image, c] >= means[c]]
        if reached and max(reached, key=lambda c: whole[image, c]) != labels[image]:
            expected.add(image)
    classes = np.argsort(-whole, axis=1).astype(np.int32)
    found = label_suspects(labels, own, classes, np.take_along_axis(whole, classes, axis=1), 6)
    assert set(found.tolist()) == expected and len(expected) > 10
    margins = [whole[image].max() - own[image] for image in found]
    assert margins[0] == pytest.approx(max(margins))
