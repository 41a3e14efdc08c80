"""Confusions are counted without the pairs that never occur, and are the matrix's cells."""

from __future__ import annotations

import numpy as np
import pytest

from hf_finetune.evaluation.analysis import Confusions, confusion_matrix

LABELS = np.array([0, 0, 1, 1, 1, 2, -100])
PREDICTIONS = np.array([0, 2, 1, 2, 2, 2, 1])
NAMES = ["cat", "dog", "bird"]


def test_the_cells_are_those_of_the_matrix():
    confusions = Confusions.count(PREDICTIONS, LABELS, 3)
    matrix = confusion_matrix(PREDICTIONS, LABELS, NAMES)
    assert confusions.matrix().tolist() == matrix.tolist() == [[1, 0, 1], [0, 1, 2], [0, 0, 1]]
    assert Confusions.of_matrix(matrix).matrix().tolist() == matrix.tolist()
    assert confusions.correct == 3 and confusions.images.sum() == 6 and confusions.images.dtype == np.int64


def test_the_most_frequent_come_first():
    confusions = Confusions.count(PREDICTIONS, LABELS, 3)
    assert confusions.most_frequent(NAMES) == [
        {"label": "dog", "prediction": "bird", "images": 2},
        {"label": "cat", "prediction": "bird", "images": 1},
    ]
    assert confusions.most_frequent(NAMES, 1) == confusions.most_frequent(NAMES)[:1]


@pytest.mark.parametrize("per_cell", [1, 2, 3, 7])
def test_neighbouring_classes_share_a_cell(per_cell):
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 7, (2, 200))
    confusions = Confusions.count(predictions, labels, 7)
    binned = confusions.matrix(per_cell)
    whole = np.zeros((len(binned) * per_cell,) * 2, dtype=np.int64)
    whole[:7, :7] = confusions.matrix()
    expected = whole.reshape(len(binned), per_cell, len(binned), per_cell).sum(axis=(1, 3))
    assert binned.tolist() == expected.tolist() and binned.sum() == 200


def test_int32_ids_of_many_classes_do_not_overflow():
    """21,841 times 100,000 does not fit 32 bits."""
    labels, predictions = np.array([99_999, 99_999], dtype=np.int32), np.array([3, 3], dtype=np.int32)
    confusions = Confusions.count(predictions, labels, 100_000)
    assert (confusions.labels.tolist(), confusions.predictions.tolist()) == ([99_999], [3])
    assert confusions.images.tolist() == [2]
