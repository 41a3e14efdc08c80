"""The calibration error against a hand-made case and a simulation, and the temperature against a known one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scipy.special import log_softmax, softmax

from hf_finetune.evaluation.calibration import (
    expected_calibration_error,
    fit_temperature,
    reliability,
    temperature_helps,
)
from hf_finetune.evaluation.plots import plot_reliability


def drawn(images: int, classes: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose scores are right once they are divided by `temperature`, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, classes))
    probabilities = softmax(logits, axis=1)
    labels = (probabilities.cumsum(axis=1) > random.random((images, 1))).argmax(axis=1)
    return (logits * temperature).astype(np.float32), labels


def scores_of(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return softmax(logits, axis=1).max(axis=1).astype(np.float32), logits.argmax(axis=1) == labels


def test_the_error_by_hand():
    confidences = np.array([0.95, 0.95, 0.97, 0.99, 0.5, 0.5], np.float32)
    correct = np.array([True, True, True, False, True, False])
    bins = reliability(confidences, correct)
    assert [row["images"] for row in bins] == [2, 4]
    assert [row["accuracy"] for row in bins] == [0.5, 0.75]
    assert bins[1]["confidence"] == pytest.approx(0.965) and bins[1]["high"] == 1.0
    assert expected_calibration_error(confidences, correct) == pytest.approx(4 / 6 * (0.965 - 0.75))


def test_a_score_at_the_edge_belongs_to_the_bin_below_it():
    (row,) = reliability(np.array([1.0, 14.5 / 15], np.float32), np.array([True, True]))
    assert row["images"] == 2 and row["low"] == pytest.approx(14 / 15)
    assert reliability(np.array([0.0], np.float32), np.array([True]))[0]["low"] == 0.0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_and_corrects_the_scores(temperature):
    logits, labels = drawn(20_000, 10, temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.03)
    before = expected_calibration_error(*scores_of(logits, labels))
    after = expected_calibration_error(*scores_of(logits / found, labels))
    assert after < 0.012 and (temperature == 1.0 or after < before / 4)


def test_no_other_temperature_has_a_lower_cross_entropy():
    logits, labels = drawn(500, 30, 2.0)

    def loss(temperature: float) -> float:
        return -log_softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(500), labels].mean()

    found = fit_temperature(logits, labels)
    assert loss(found) <= min(map(loss, np.geomspace(0.05, 20, 400))) + 1e-9
    assert fit_temperature(logits + 1e4, labels) == pytest.approx(found, rel=1e-2)  # a shift of all is no change


def test_one_wrong_image_tells_no_temperature_and_many_do():
    logits, labels = drawn(2_000, 10, 3.0)
    assert temperature_helps(logits, labels)
    correct = logits.argmax(axis=1) == labels
    few = np.r_[np.flatnonzero(correct)[:143], np.flatnonzero(~correct)[:1]]
    assert fit_temperature(logits[few], labels[few]) != pytest.approx(3.0, rel=0.1)
    assert not temperature_helps(logits[few], labels[few])
    right, names = drawn(2_000, 10, 1.0)  # calibrated already: whatever is said, it changes little
    assert not temperature_helps(right, names) or fit_temperature(right, names) == pytest.approx(1, abs=0.1)
    assert not temperature_helps(logits[:1], labels[:1])


@pytest.mark.usefixtures("drawn_plots")
def test_the_diagram_is_drawn_also_of_one_bin(tmp_path: Path):
    logits, labels = drawn(2_000, 10, 2.0)
    plot_reliability(reliability(*scores_of(logits, labels)), tmp_path / "many.png", "resnet on $digits$", "test")
    one = reliability(np.array([1.0], np.float32), np.array([True]))
    plot_reliability(one, tmp_path / "one.png")
    for name in ("many.png", "one.png"):
        with PIL.Image.open(tmp_path / name) as image:
            assert min(image.size) > 500
