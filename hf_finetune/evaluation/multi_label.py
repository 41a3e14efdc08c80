"""The metrics of images with several labels: their registry, and how logits become figures.

A class is given to an image where its probability, the sigmoid of its logit, reaches the threshold of the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput

from hf_finetune.data.batches import NOT_COUNTED
from hf_finetune.evaluation.analysis import LabelFigures, figures_of_counts
from hf_finetune.evaluation.intervals import Interval, interval_around
from hf_finetune.evaluation.label_set_intervals import resampled_label_sets
from hf_finetune.evaluation.metrics import (
    METRICS,
    ClassificationMetrics,
    Metric,
    as_number,
    check_any_label,
    mean_loss,
)
from hf_finetune.tasks import DEFAULT_THRESHOLD, Task, counted


@dataclass(frozen=True)
class LabelSetPredictions:
    """What a model answered for the labelled images of one split. Metrics are functions of this.

    Attributes:
        logits: Float32 (images, classes).
        has_label: Which classes each image has, bool (images, classes).
        losses: Binary cross entropy of each image, summed over the classes, in nats, float32 (images,).
        thresholds: The probability from which on each class is given, float64 (classes,).
    """

    logits: NDArray[np.float32]
    has_label: NDArray[np.bool_]
    losses: NDArray[np.float32]
    thresholds: NDArray[np.float64]

    def some(self, images: NDArray[np.int64]) -> LabelSetPredictions:
        """Return the answers for some images, by their places."""
        return replace(self, logits=self.logits[images], has_label=self.has_label[images], losses=self.losses[images])

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """The probability of each class, float32 (images, classes)."""
        from scipy.special import expit  # scipy imports for a moment, and runs of one label an image need none of it

        sigmoids: NDArray[np.float32] = expit(self.logits)
        return sigmoids

    @property
    def labels(self) -> NDArray[np.int64]:
        """1 for each class that an image has, else 0, int64 (images, classes): what a user's metric is given."""
        return self.has_label.astype(np.int64)

    @cached_property
    def given(self) -> NDArray[np.bool_]:
        """Which classes each image is given, bool (images, classes)."""
        return given_classes(self.logits, self.thresholds)

    @cached_property
    def support(self) -> NDArray[np.int64]:
        """Number of images that have each class, int64 (classes,)."""
        return self.has_label.sum(axis=0)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Number of images that are given each class, int64 (classes,)."""
        return self.given.sum(axis=0)

    @cached_property
    def correct(self) -> NDArray[np.int64]:
        """Number of images that have each class and are given it, int64 (classes,)."""
        return (self.given & self.has_label).sum(axis=0)

    @cached_property
    def resampled(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """mAP, micro F1 and macro F1 of resampled images, float64 (resamples,) each; it takes up to some seconds."""
        return resampled_label_sets(self.logits, self.has_label, self.given)

    @cached_property
    def average_precisions(self) -> NDArray[np.float64]:
        """The average precision of each class, float64 (classes,); NaN for one that no image has."""
        return average_precisions(self.logits, self.has_label)


def given_classes(logits: NDArray[np.float32], thresholds: ArrayLike) -> NDArray[np.bool_]:
    """Return which classes are given to images.

    Logits are compared, because float32 rounds the probabilities of sure answers to 1.

    Args:
        logits: Float32 (images, classes).
        thresholds: Probabilities, (classes,) or one for all.
    """
    from scipy.special import logit

    with np.errstate(divide="ignore"):  # a threshold of 0 or 1
        given: NDArray[np.bool_] = logits >= logit(np.asarray(thresholds, np.float64))
    return given


def precision_recall(scores: NDArray[np.float32], has_label: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """Return precision and recall of one class at each score, from the highest to the lowest: equal scores count once.

    Args:
        scores: Float32 (images,).
        has_label: Whether each image has the class, bool (images,); one at least has.

    Returns:
        The scores, precisions and recalls, float64 (different scores,) each.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    hits = np.cumsum(has_label[order])[last].astype(np.float64)
    return ordered[last], hits / (last + 1), hits / hits[-1]


def average_precisions(scores: NDArray[np.float32], has_label: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the average precision of each class, as scikit-learn computes it: precision, weighted by gains of recall.

    Args:
        scores: Float32 (images, classes).
        has_label: Bool (images, classes).

    Returns:
        Float64 (classes,), NaN for a class that no image has.
    """
    found = np.full(scores.shape[1], np.nan)
    for class_id in np.flatnonzero(has_label.any(axis=0)):
        _, precision, recall = precision_recall(scores[:, class_id], has_label[:, class_id])
        found[class_id] = np.sum(np.diff(recall, prepend=0) * precision)
    return found


def mean_average_precision(predictions: LabelSetPredictions) -> float:
    """Return the mean of the average precision over the classes that an image has."""
    return float(np.nanmean(predictions.average_precisions)) if predictions.support.any() else float("nan")


def micro_f1(predictions: LabelSetPredictions) -> float:
    """Return the F1 of all decisions, one for each image and class, together; 0 where there is no label at all."""
    total = int(predictions.support.sum() + predictions.predicted.sum())
    return 2 * int(predictions.correct.sum()) / total if total else 0.0


def macro_f1(predictions: LabelSetPredictions) -> float:
    """Return the mean F1 over the classes that occur among the labels or the answers."""
    total = predictions.support + predictions.predicted
    occurs = total > 0
    return float(np.mean(2 * predictions.correct[occurs] / total[occurs])) if occurs.any() else 0.0


def map_interval(predictions: LabelSetPredictions) -> Interval:
    """Return the bootstrap interval of the mAP."""
    return interval_around(mean_average_precision(predictions), predictions.resampled[0])


def micro_f1_interval(predictions: LabelSetPredictions) -> Interval:
    """Return the bootstrap interval of the micro F1."""
    return interval_around(micro_f1(predictions), predictions.resampled[1])


def macro_f1_interval(predictions: LabelSetPredictions) -> Interval:
    """Return the bootstrap interval of the macro F1."""
    return interval_around(macro_f1(predictions), predictions.resampled[2])


MULTI_LABEL_METRICS: Mapping[str, Metric] = {
    "mAP": Metric(mean_average_precision, "mAP", "mAP", "mean_average_precision", interval=map_interval),
    "micro_f1": Metric(micro_f1, "micro F1", "micro F1", "f1", interval=micro_f1_interval),
    "macro_f1": Metric(macro_f1, "macro F1", "macro F1", "f1", in_log=False, interval=macro_f1_interval),
    "loss": Metric(mean_loss, "loss", "loss", "loss", as_number, greater_is_better=False),
}
"""The metrics of every run on images with several labels, by name, in the order of the tables' columns."""


def registry_of(task: Task) -> Mapping[str, Metric]:
    """Return the registered metrics of a task."""
    return MULTI_LABEL_METRICS if task.several else METRICS


def metrics_of(
    task: Task, label_names: Sequence[str], metrics: Mapping[str, Metric], thresholds: ArrayLike = DEFAULT_THRESHOLD
) -> ClassificationMetrics:
    """Return what computes the figures of a task; see `ClassificationMetrics` and `MultiLabelMetrics`."""
    if task.several:
        return MultiLabelMetrics(label_names, metrics, thresholds)
    return ClassificationMetrics(label_names, metrics)


class MultiLabelMetrics(ClassificationMetrics):
    """The Trainer's `compute_metrics` for images with several labels.

    Attributes:
        thresholds: The probability from which on each class is given, float64 (classes,).
    """

    def __init__(
        self,
        label_names: Sequence[str],
        metrics: Mapping[str, Metric] = MULTI_LABEL_METRICS,
        thresholds: ArrayLike = DEFAULT_THRESHOLD,
    ) -> None:
        """Choose the metrics; `thresholds` are one for each class or one for all."""
        super().__init__(label_names, metrics)
        self.thresholds: NDArray[np.float64] = np.broadcast_to(
            np.asarray(thresholds, np.float64), (len(label_names),)
        ).copy()

    def reduce_logits(self, logits: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Return the logits of a batch, float32 (batch, classes), and its losses, float32 (batch,).

        Args:
            logits: (batch, classes), of any float dtype.
            labels: 1 for each class that an image has, float (batch, classes); a row of negative numbers for an image
                without a label, whose loss is NaN. None where none has one.
        """
        logits = logits.float()
        if labels is None:
            labels = torch.full_like(logits, NOT_COUNTED)
        losses = functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none").sum(dim=1)
        return logits, losses.masked_fill(~counted(labels), float("nan"))

    def predictions(self, prediction: EvalPrediction | PredictionOutput) -> Any:
        """Return the `LabelSetPredictions` of what `reduce_logits` returned for a split."""
        labels = np.asarray(prediction.label_ids)
        labelled = counted(labels)
        check_any_label(labelled)
        logits, losses = (np.asarray(array)[labelled] for array in prediction.predictions[:2])
        return LabelSetPredictions(logits, labels[labelled] > 0, losses, self.thresholds)


def label_figures(predictions: LabelSetPredictions, label_names: Sequence[str]) -> list[LabelFigures]:
    """Return the figures of each class, in the order of class ids.

    Args:
        predictions: Those of a split.
        label_names: Class names by class id.

    Returns:
        One mapping for each class. Those of a class that no image has are NaN, but for the threshold; the precision of
        one that is never given is 0.
    """
    rows = figures_of_counts(predictions.support, predictions.predicted, predictions.correct, label_names)
    return [
        {
            **row,
            "average_precision": float(predictions.average_precisions[class_id]),
            "threshold": float(predictions.thresholds[class_id]),
        }
        for class_id, row in enumerate(rows)
    ]


def best_thresholds(
    logits: NDArray[np.float32], has_label: NDArray[np.bool_], fewest: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the threshold of each class that gives it the highest F1, in the middle between two neighbouring logits.

    It is the strategy SCut of Yang, "A study of thresholding strategies for text categorization", SIGIR 2001.

    Args:
        logits: Float32 (images, classes).
        has_label: Bool (images, classes).
        fewest: Images that must have the class, and that must not: one of fewer keeps 0.5.

    Returns:
        The thresholds as probabilities, float64 (classes,), and which of them were fitted, bool (classes,).
    """
    from scipy.special import expit

    support = has_label.sum(axis=0)
    fitted = np.minimum(support, len(has_label) - support) >= fewest
    thresholds = np.full(logits.shape[1], DEFAULT_THRESHOLD)
    for class_id in np.flatnonzero(fitted):
        scores, precision, recall = precision_recall(logits[:, class_id], has_label[:, class_id])
        f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
        best = int(np.argmax(f1))
        below = scores[min(best + 1, len(scores) - 1)]
        thresholds[class_id] = expit((scores[best] + below) / 2)
    return thresholds, fitted
