"""Intervals against published values, against simulated coverage, and as they are shown."""

from __future__ import annotations

import json
import math
import time
import tracemalloc

import numpy as np
import pytest
from transformers import EvalPrediction

from hf_finetune.evaluation.analysis import per_class_figures
from hf_finetune.evaluation.intervals import interval_around, resampled_figures, wilson, wilson_interval
from hf_finetune.evaluation.metrics import ClassificationMetrics, Predictions, balanced_accuracy, macro_f1
from hf_finetune.evaluation.report import format_interval, format_report, interval_keys, to_json


def answers(classes: int, images: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    return np.where(random.random(images) < share, labels, random.integers(0, classes, images)), labels


def predictions_of(classes: np.ndarray, labels: np.ndarray, number: int) -> Predictions:
    zeros = np.zeros(len(labels), np.float32)
    return Predictions(classes, labels, classes == labels, zeros, zeros, number)


def intervals_of(classes: list[int], labels: list[int], number: int = 7) -> dict[str, tuple[float, float]]:
    zeros = np.zeros(len(labels), np.float32)
    arrays = (np.array(classes), np.array(classes) == np.array(labels), zeros, zeros)
    metrics = ClassificationMetrics([f"class {index}" for index in range(number)])
    return metrics.intervals(metrics.predictions(EvalPrediction(predictions=arrays, label_ids=np.array(labels))))


@pytest.mark.parametrize(
    ("hits", "images", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_limits(hits, images, low, high):
    assert wilson_interval(hits, images) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_at_the_ends_and_without_images():
    low, high = wilson([0, 359, 0], [359, 359, 0])
    assert low[0] == 0.0 and high[1] == 1.0
    assert 0 < high[0] < 0.02 and 0.98 < low[1] < 1
    assert math.isnan(low[2]) and math.isnan(high[2])


@pytest.mark.parametrize(("classes", "images"), [(2, 1), (3, 50), (10, 50), (10, 2_000), (100, 200), (5_000, 4_000)])
def test_a_figure_lies_in_its_own_interval(classes, images):
    predicted, labels = answers(classes, images, 0.7)
    predictions = predictions_of(predicted, labels, classes)
    for figure, resampled in zip((macro_f1, balanced_accuracy), predictions.resampled, strict=True):
        low, high = interval_around(figure(predictions), resampled)
        assert 0 <= low <= figure(predictions) <= high <= 1
        assert images < 50 or 0 < high - low < 0.5


def test_resampling_is_the_same_each_time_and_narrows_with_the_images():
    few, many = answers(10, 100, 0.8), answers(10, 10_000, 0.8)
    assert np.array_equal(resampled_figures(*few)[0], resampled_figures(*few)[0])
    assert not np.array_equal(resampled_figures(*few)[0], resampled_figures(*few, seed=1)[0])
    # The standard error falls with the root of the number of images: here to a tenth.
    assert resampled_figures(*few)[1].std() / resampled_figures(*many)[1].std() == pytest.approx(10, rel=0.3)


def test_counts_and_images_are_drawn_to_the_same_spread(monkeypatch):
    """Both ways of drawing are of one distribution: balanced classes have the spread of a share."""
    labels = np.repeat(np.arange(2), 200)
    classes = np.where(np.arange(400) % 4 == 0, 1 - labels, labels)
    by_counts = resampled_figures(classes, labels)[1]
    many = np.arange(400)  # each image is a class of its own, so images are drawn
    by_images = resampled_figures(np.where(many % 4 == 0, (many + 1) % 400, many), many)[1]
    assert by_counts.std() == pytest.approx(math.sqrt(0.75 * 0.25 / 400), rel=0.1)
    assert by_images.mean() == pytest.approx(0.75, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "images"), [(10, 200), (50, 500)])
def test_bootstrap_intervals_hold_the_figure_of_all_images_as_often_as_they_say(classes, images):
    held = [0, 0]
    trials = 150
    truth_predicted, truth_labels = answers(classes, 400_000, 0.8, seed=99)
    truth = predictions_of(truth_predicted, truth_labels, classes)
    for seed in range(trials):
        predictions = predictions_of(*answers(classes, images, 0.8, seed), classes)
        for place, figure in enumerate((macro_f1, balanced_accuracy)):
            low, high = interval_around(figure(predictions), predictions.resampled[place])
            held[place] += low <= figure(truth) <= high
    assert min(held) / trials > 0.9


def test_a_split_without_a_mistake_is_not_said_to_be_certain():
    labels = [0, 1, 2, 3, 4, 5, 6] * 3
    intervals = intervals_of(labels, labels)
    assert set(intervals) == {"accuracy", "top5_accuracy", "macro_f1", "balanced_accuracy"}
    assert set(intervals.values()) == {wilson_interval(21, 21)}


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "seconds"), [(1_000, 4), (21_841, 8)])  # on an idle core: 1 s and 2 s
def test_many_images_of_many_classes_stay_small_and_fast(classes, seconds):
    predicted, labels = answers(classes, 50_000, 0.75)
    begin = time.process_time()
    resampled_figures(predicted, labels)
    assert time.process_time() - begin < seconds
    tracemalloc.start()
    try:
        resampled_figures(predicted[:5_000], labels[:5_000])
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_intervals_stand_below_the_figures_within_80_columns():
    figures = {"accuracy": 0.8721, "top5_accuracy": 1.0, "macro_f1": 0.87154, "balanced_accuracy": 0.87, "loss": 0.4}
    intervals = {
        "accuracy": (0.8654, 0.8785), "top5_accuracy": (0.996, 1.0), "macro_f1": (0.8651, 0.8779),
        "balanced_accuracy": (0.8634, 0.8763),
    }  # fmt: skip
    split, validation = "test (10,000 images)", "validation (5,000 images), which also chose the checkpoint"
    by_split = {split: intervals, validation: intervals}
    report = format_report({split: figures, validation: figures}, intervals=by_split)
    assert report.split("\n") == [
        "split                        accuracy     top-5   macro F1   balanced    loss",
        "test (10,000 images)          87.21 %  100.00 %    87.15 %    87.00 %  0.4000",
        "  95 % interval             86.5-87.8  99.6-100  86.5-87.8  86.3-87.6",
        "validation (5,000 images),    87.21 %  100.00 %    87.15 %    87.00 %  0.4000",
        "which also chose the",
        "checkpoint",
        "  95 % interval             86.5-87.8  99.6-100  86.5-87.8  86.3-87.6",
    ]


def test_few_images_are_said_to_leave_the_accuracy_open():
    figures, low_and_high = {"accuracy": 0.56}, {"accuracy": wilson_interval(28, 50)}
    split = "validation (50 images), which also chose the checkpoint"
    report = format_report({split: figures}, intervals={split: low_and_high})
    note = " ".join(report.split("\n")[-2:])
    assert note == (
        "Note: so few images leave the accuracy open between 42.3 % and 68.8 %, validation (50 images); a smaller"
        " difference between two models may be chance."
    )
    assert max(map(len, report.split("\n"))) <= 80
    sure = {"test": {"accuracy": wilson_interval(560, 1_000)}}
    assert "Note" not in format_report({"test": figures}, intervals=sure)


def test_texts_and_keys():
    assert format_interval((0.9876, 1.0)) == "98.8-100"
    assert format_interval((0.0, 0.1611)) == "0.0-16.1"
    assert interval_keys({"accuracy": (0.25, 0.5)}) == {"accuracy_interval": [0.25, 0.5]}


def test_recall_has_its_interval_and_a_class_without_images_none():
    rows = per_class_figures(np.array([0, 0, 1]), np.array([0, 0, 0]), ["there", "absent"])
    assert rows[0]["recall_interval"] == wilson_interval(2, 3)
    assert rows[1]["recall_interval"] is None
    assert json.loads(to_json({"rows": rows}))["rows"][1]["recall_interval"] is None
