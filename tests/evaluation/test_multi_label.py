"""The metrics of several labels are scikit-learn's, thresholds are the best ones, and intervals hold the figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score
from transformers import EvalPrediction

from hf_finetune.data.batches import NOT_COUNTED
from hf_finetune.errors import UserError
from hf_finetune.evaluation import label_set_intervals
from hf_finetune.evaluation.metrics import run_metrics
from hf_finetune.evaluation.multi_label import (
    MULTI_LABEL_METRICS,
    LabelSetPredictions,
    MultiLabelMetrics,
    average_precisions,
    best_thresholds,
    label_figures,
    macro_f1,
    mean_average_precision,
    metrics_of,
    micro_f1,
    registry_of,
)
from hf_finetune.evaluation.summary import summary_of
from hf_finetune.tasks import ONE_LABEL, SEVERAL_LABELS

CLASSES = 6


def answers(images: int = 300, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Logits, with equal ones among them, and labels that have to do with them; the last class has no image."""
    generator = np.random.default_rng(0)
    logits = generator.normal(-1, 2, (images, CLASSES)).astype(np.float32)
    logits = logits.round(1) if ties else logits
    labels = generator.random((images, CLASSES)) < expit(logits + generator.normal(0, 1, logits.shape))
    labels[:, -1] = False
    return logits, labels


def computed(thresholds: Any = 0.5, own: Any = None) -> tuple[MultiLabelMetrics, EvalPrediction]:
    logits, labels = answers()
    targets = labels.astype(np.float32)
    targets[7] = NOT_COUNTED
    metrics = MultiLabelMetrics(list("abcdef"), run_metrics(own, MULTI_LABEL_METRICS), thresholds)
    reduced = metrics.reduce_logits(torch.from_numpy(logits), torch.from_numpy(targets))
    return metrics, EvalPrediction(tuple(array.numpy() for array in reduced), targets)


def test_the_figures_are_those_of_scikit_learn() -> None:
    thresholds = np.linspace(0.2, 0.7, CLASSES)
    metrics, prediction = computed(thresholds)
    figures = metrics(prediction)
    logits, labels = (np.delete(array, 7, axis=0) for array in answers())
    given = expit(logits) >= thresholds
    precisions = [average_precision_score(labels[:, k], logits[:, k]) for k in range(CLASSES - 1)]
    assert figures["mAP"] == pytest.approx(np.mean(precisions))
    assert figures["micro_f1"] == pytest.approx(f1_score(labels, given, average="micro"))
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, given, average="macro", zero_division=0))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(labels).float(), reduction="none"
    )
    assert figures["loss"] == pytest.approx(loss.sum(dim=1).mean().item(), rel=1e-6)
    assert figures["samples"] == len(logits)


def test_the_figures_of_a_resample_are_those_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that are equal, a class that no image has, one that all have, and resamples in more parts than one."""
    monkeypatch.setattr(label_set_intervals, "_MOST_AT_ONCE", 7 * 40)
    generator = np.random.default_rng(3)
    has_label = generator.random((40, 4)) < [0, 0.1, 0.5, 2]
    logits = np.round(generator.normal(size=(40, 4)) + has_label, 1).astype(np.float32)
    found = np.stack(label_set_intervals.resampled_label_sets(logits, has_label, logits > 0.5, seed=5))
    assert found.shape == (3, 1000)
    draws = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), 1000)
    whole = LabelSetPredictions(logits, has_label, np.zeros(40, np.float32), expit(np.full(4, 0.5)))
    for number in (*range(15), 999):
        some = whole.some(np.repeat(np.arange(40), draws[number]))
        expected = [mean_average_precision(some), micro_f1(some), macro_f1(some)]
        np.testing.assert_allclose(found[:, number], expected, rtol=1e-12)


def test_the_intervals_hold_the_figures() -> None:
    metrics, prediction = computed()
    figures, intervals = metrics(prediction), metrics.intervals(metrics.predictions(prediction))
    assert list(intervals) == ["mAP", "micro_f1", "macro_f1"]
    for name, (low, high) in intervals.items():
        assert low < figures[name] < high and high - low < 0.2


def test_a_metric_of_the_user_s_own_is_given_probabilities_and_labels() -> None:
    def exact(probabilities: np.ndarray, labels: np.ndarray) -> float:
        return float(((probabilities >= 0.5) == labels).all(axis=1).mean())

    metrics, prediction = computed(own={"exact": exact})
    logits, labels = (np.delete(array, 7, axis=0) for array in answers())
    assert metrics(prediction)["exact"] == ((logits >= 0) == labels).all(axis=1).mean()


def test_a_split_without_labels_is_refused() -> None:
    metrics, prediction = computed()
    prediction.label_ids[:] = NOT_COUNTED
    with pytest.raises(UserError, match="None of the 300 images to evaluate has a label"):
        metrics(prediction)


def test_the_best_threshold_of_each_class() -> None:
    logits, labels = answers(ties=False)
    thresholds, fitted = best_thresholds(logits, labels, fewest=5)
    assert fitted.tolist() == [True] * 5 + [False] and thresholds[-1] == 0.5
    for k in range(CLASSES - 1):
        best = f1_score(labels[:, k], expit(logits[:, k]) >= thresholds[k])
        tried = [f1_score(labels[:, k], expit(logits[:, k]) >= other) for other in np.linspace(0.01, 0.99, 99)]
        assert best >= max(tried)


def test_a_threshold_lies_in_the_middle_of_a_gap() -> None:
    logits = np.array([[3.0], [2.0], [-4.0], [-5.0]], np.float32)
    thresholds, _ = best_thresholds(logits, np.array([[True], [True], [False], [False]]), fewest=2)
    assert thresholds[0] == pytest.approx(expit(-1.0))


def test_a_class_without_an_image_has_no_figures() -> None:
    assert np.isnan(average_precisions(*answers())[-1])
    predictions = LabelSetPredictions(*answers(), np.zeros(300, np.float32), np.full(CLASSES, 0.5))
    rows = label_figures(predictions, list("abcdef"))
    assert np.isnan(rows[-1]["f1"]) and rows[-1]["support"] == 0 and rows[-1]["threshold"] == 0.5
    assert rows[0]["f1"] == pytest.approx(f1_score(predictions.has_label[:, 0], predictions.given[:, 0]))


def test_sure_answers_are_compared_by_logits() -> None:
    logits = np.array([[40.0], [30.0]], np.float32)  # float32 probabilities of both are 1
    assert average_precisions(logits, np.array([[True], [False]])).tolist() == [1.0]


def test_a_network_that_knows_nothing_is_told() -> None:
    logits, labels = answers()
    worse = LabelSetPredictions(-logits, labels, np.zeros(300, np.float32), np.full(CLASSES, 0.5))
    said = summary_of(worse, list("abcdef")).ignorance()
    assert said is not None and said.startswith("its mAP is ")
    better = LabelSetPredictions(logits, labels, np.zeros(300, np.float32), np.full(CLASSES, 0.5))
    assert summary_of(better, list("abcdef")).ignorance() is None


def test_each_task_has_its_registry() -> None:
    for task in (ONE_LABEL, SEVERAL_LABELS):
        metrics = metrics_of(task, ["a", "b"], registry_of(task))
        assert task.chosen_by in metrics.names
    logits = torch.tensor([[2.0, 0.0]])
    assert ONE_LABEL.probabilities(logits).sum().item() == pytest.approx(1)
    assert SEVERAL_LABELS.probabilities(logits)[0].tolist() == pytest.approx([expit(2.0), 0.5])


def test_the_curves_are_drawn(tmp_path: Any, drawn_plots: None) -> None:
    from hf_finetune.evaluation.curves import plot_precision_recall

    predictions = LabelSetPredictions(*answers(), np.zeros(300, np.float32), np.full(CLASSES, 0.5))
    plot_precision_recall(predictions, list("abcdef"), tmp_path / "curves.png", "a network on images", "test")
    assert (tmp_path / "curves.png").stat().st_size > 20_000
