"""The arithmetic of confident learning, and probes that are good or bad."""

from __future__ import annotations

import numpy as np
import pytest

from hf_finetune.checks.labels import label_suspects
from hf_finetune.checks.probes import probe_out_of_fold


def test_suspects_by_hand():
    """Class means of the own probability: (0.9 + 0.8 + 0.01) / 3 = 0.57 and (0.7 + 0.6 + 0.04) / 3 = 0.447."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    of_one = np.array([0.1, 0.2, 0.99, 0.7, 0.6, 0.04])
    rows, classes = label_suspects(labels, np.stack([1 - of_one, of_one], axis=1))
    assert rows.tolist() == [2, 5] and classes.tolist() == [1, 0]  # by the margin, -0.98 and -0.92


def test_a_probability_below_the_mean_of_its_class_is_not_confident():
    """Row 3 is rather of class 1 (0.55), but images of class 1 have 0.9 on average."""
    labels = np.array([1, 1, 0, 0])
    probabilities = np.array([[0.1, 0.9, 0], [0.1, 0.9, 0], [0.9, 0.1, 0], [0.03, 0.55, 0.42]])
    assert label_suspects(labels, probabilities)[0].tolist() == []
    probabilities[3] = [0.03, 0.95, 0.02]
    assert label_suspects(labels, probabilities)[0].tolist() == [3]


def test_a_label_that_may_well_be_right_is_not_listed():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.06, 0.94], [0.1, 0.9], [0.1, 0.9]])
    assert label_suspects(labels, probabilities)[0].tolist() == []


def test_no_image_is_of_a_class_without_images():
    probabilities = np.array([[0.6, 0, 0.4], [0.6, 0, 0.4], [0.02, 0.9, 0.08]])
    assert label_suspects(np.array([0, 0, 1]), probabilities)[0].tolist() == []


def test_swapped_labels_are_found_by_probes_that_have_not_seen_them():
    generator = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 100)
    features = (np.eye(3)[truth] * 4 + generator.normal(0, 1, (300, 3))).astype(np.float32)
    labels = truth.copy()
    labels[[7, 120, 250]] = [2, 0, 1]
    probes = probe_out_of_fold(features, labels, "features", seed=0)
    rows, classes = label_suspects(labels, probes.probabilities)
    found = dict(zip(rows.tolist(), classes.tolist(), strict=True))
    assert {7, 120, 250} <= set(found) and len(found) <= 6
    assert {row: found[row] for row in (7, 120, 250)} == {7: 0, 120: 1, 250: 2}
    assert probes.accuracy == pytest.approx(0.96, abs=0.03) and probes.folds == 5
    np.testing.assert_allclose(probes.probabilities.sum(axis=1), 1, rtol=1e-5)
