"""The metrics of image classification: one registry, and the Trainer's two functions that compute them.

`METRICS` is the registry. An entry there is all that a new metric needs: the log, the final table, the model card,
`metrics.json` and the choice of the best checkpoint read it. A run adds metrics of its own with `run_metrics`, which
leaves `METRICS` as it is.

The figures are computed in two stages. `ClassificationMetrics.reduce_logits` runs on the device after each evaluation
batch and keeps four numbers per image and its five likeliest classes, so that 50,000 images of 1,000 classes take
2.9 MB instead of 200 MB. Of at most 100 classes all probabilities are kept.
`ClassificationMetrics.__call__` runs once, on the arrays of the whole split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput

from hf_finetune.data.batches import NOT_COUNTED
from hf_finetune.errors import UserError
from hf_finetune.evaluation.calibration import expected_calibration_error
from hf_finetune.evaluation.intervals import Interval, interval_around, resampled_figures, wilson_interval
from hf_finetune.evaluation.likeliest import LIKELIEST, MOST_WHOLE, likeliest
from hf_finetune.host_memory import release_freed_memory

UserMetric = Callable[[NDArray[np.float32], NDArray[np.int64]], float]
"""A user's metric: (probabilities, float32 (images, classes), labels, int64 (images,)) -> one number."""

_MANY = 2**20  # logits of a batch from which the memory of their probabilities is given back at once


@dataclass(frozen=True)
class Predictions:
    """What a model answered for the labelled images of one split. Metrics are functions of this.

    Attributes:
        classes: Class with the largest logit, int64 (images,).
        labels: Class id of the label, int64 (images,), never negative.
        top5_hits: Whether the label is among the five largest logits, bool (images,).
        losses: Cross entropy of each image in nats, float32 (images,).
        confidences: Probability of the predicted class, float32 (images,).
        num_classes: Number of classes of the model.
        probabilities: Softmax of the logits, float32 (images, classes). None of more than 100 classes, unless a metric
            of the run needs it.
    """

    classes: NDArray[np.int64]
    labels: NDArray[np.int64]
    top5_hits: NDArray[np.bool_]
    losses: NDArray[np.float32]
    confidences: NDArray[np.float32]
    num_classes: int
    probabilities: NDArray[np.float32] | None = None

    @cached_property
    def support(self) -> NDArray[np.int64]:
        """Number of images of each label, int64 (classes,)."""
        return np.bincount(self.labels, minlength=self.num_classes)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Number of images that were given each class, int64 (classes,)."""
        return np.bincount(self.classes, minlength=self.num_classes)

    @cached_property
    def correct(self) -> NDArray[np.int64]:
        """Number of images of each label that were given that class, int64 (classes,)."""
        return np.bincount(self.labels[self.labels == self.classes], minlength=self.num_classes)

    @cached_property
    def resampled(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Macro F1 and balanced accuracy of resampled images, float64 (resamples,) each; it takes up to a second."""
        return resampled_figures(self.classes, self.labels)


def as_percent(value: float) -> str:
    """Return a part of 1 as "87.21 %", NaN as "-"."""
    return "-" if math.isnan(value) else f"{100 * value:.2f} %"


def as_number(value: float) -> str:
    """Return a number with four decimals, such as "0.4012", NaN as "-"."""
    return "-" if math.isnan(value) else f"{value:.4f}"


@dataclass(frozen=True)
class Metric:
    """One metric: how it is computed, what it is called and how it is shown.

    Attributes:
        compute: The figure of one split, of its `Predictions`, or `LabelSetPredictions` of several labels.
        heading: Heading of its column in the final table, at most 10 characters to keep the table within 80 columns.
        title: Its name in the model card and in the log.
        hub_type: Its type in the model card's metadata, an id of https://huggingface.co/metrics where there is one.
        format: Makes the text of a figure; NaN is "-".
        greater_is_better: Whether a larger figure is better. None leaves it to the setting of that name.
        min_classes: The metric is left out for models with fewer classes.
        in_log: Whether the line after each evaluation shows it.
        needs_probabilities: Whether `compute` reads `Predictions.probabilities`, which costs 4 bytes per image and
            class of memory.
        interval: The 95 % interval of the figure; None where it has none. It is computed for final figures only.
    """

    compute: Callable[[Any], float]
    heading: str
    title: str
    hub_type: str
    format: Callable[[float], str] = as_percent
    greater_is_better: bool | None = True
    min_classes: int = 1
    in_log: bool = True
    needs_probabilities: bool = False
    interval: Callable[[Any], Interval] | None = None


def accuracy(predictions: Predictions) -> float:
    """Return the share of images whose predicted class is the label."""
    return float(np.mean(predictions.classes == predictions.labels))


def top5_accuracy(predictions: Predictions) -> float:
    """Return the share of images whose label is among the five largest logits."""
    return float(np.mean(predictions.top5_hits))


def macro_f1(predictions: Predictions) -> float:
    """Return the mean F1 over the classes that occur among the labels or the predictions, as scikit-learn does."""
    total = predictions.support + predictions.predicted
    occurs = total > 0
    return float(np.mean(2 * predictions.correct[occurs] / total[occurs]))


def balanced_accuracy(predictions: Predictions) -> float:
    """Return the mean recall over the classes that occur among the labels, as scikit-learn does."""
    occurs = predictions.support > 0
    return float(np.mean(predictions.correct[occurs] / predictions.support[occurs]))


def mean_loss(predictions: Predictions) -> float:
    """Return the mean cross entropy over images in nats, summed in float64.

    It is a mean over images and not over batches, so that an uneven last batch does not weigh more than it holds.
    """
    return float(np.mean(predictions.losses, dtype=np.float64))


def calibration_error(predictions: Predictions) -> float:
    """Return the expected calibration error: how far scores and accuracy are apart, in 15 bins of scores."""
    return expected_calibration_error(predictions.confidences, predictions.classes == predictions.labels)


def accuracy_interval(predictions: Predictions) -> Interval:
    """Return the score interval of the accuracy."""
    return wilson_interval(int(predictions.correct.sum()), len(predictions.labels))


def top5_interval(predictions: Predictions) -> Interval:
    """Return the score interval of the top-5 accuracy."""
    return wilson_interval(int(predictions.top5_hits.sum()), len(predictions.labels))


def macro_f1_interval(predictions: Predictions) -> Interval:
    """Return the bootstrap interval of the macro F1."""
    return _mean_interval(predictions, macro_f1(predictions), predictions.resampled[0])


def balanced_interval(predictions: Predictions) -> Interval:
    """Return the bootstrap interval of the balanced accuracy."""
    return _mean_interval(predictions, balanced_accuracy(predictions), predictions.resampled[1])


def _mean_interval(predictions: Predictions, figure: float, resampled: NDArray[np.float64]) -> Interval:
    if int(predictions.correct.sum()) in (0, len(predictions.labels)):
        return accuracy_interval(predictions)  # resampling cannot draw a mistake where there is none
    return interval_around(figure, resampled)


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(accuracy, "accuracy", "accuracy", "accuracy", interval=accuracy_interval),
    "top5_accuracy": Metric(
        top5_accuracy,
        "top-5",
        "top-5 accuracy",
        "top5_accuracy",
        min_classes=LIKELIEST + 1,
        in_log=False,
        interval=top5_interval,
    ),
    "macro_f1": Metric(macro_f1, "macro F1", "macro F1", "f1", in_log=False, interval=macro_f1_interval),
    "balanced_accuracy": Metric(
        balanced_accuracy,
        "balanced",
        "balanced accuracy",
        "balanced_accuracy",
        in_log=False,
        interval=balanced_interval,
    ),
    "loss": Metric(mean_loss, "loss", "loss", "loss", as_number, greater_is_better=False),
    "ece": Metric(calibration_error, "ECE", "calibration error", "ece", greater_is_better=False, in_log=False),
}
"""The metrics of every run by name, in the order of the tables' columns."""

# Names that the Trainer's own figures have.
TRAINERS_FIGURES = ("samples", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def run_metrics(
    own: Mapping[str, UserMetric | Metric] | None = None, registered: Mapping[str, Metric] = METRICS
) -> Mapping[str, Metric]:
    """Return the metrics of one run: the registered ones, and after them the user's own.

    A metric of the `evaluate` library becomes one of them through a lambda:

        mcc = evaluate.load("matthews_correlation")
        own = {"mcc": lambda probabilities, labels: mcc.compute(
            predictions=probabilities.argmax(1), references=labels)["matthews_correlation"]}

    Args:
        own: By name, a function of (probabilities, float32 (images, classes), labels, int64 (images,)) that returns
            one number, or a `Metric`. Images without a label are left out before. Where images have several labels,
            these are 1 for each of them and 0 for other classes, int64 (images, classes).
        registered: Those of the task.

    Returns:
        A new mapping of names to metrics.

    Raises:
        UserError: If a name is taken or is not an identifier, or a value is neither a function nor a `Metric`.
    """
    metrics = dict(registered)
    for name, value in (own or {}).items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f'metrics: "{name}" cannot be the name of a metric; use letters, digits and "_".')
        if name in metrics or name in TRAINERS_FIGURES:
            raise UserError(f'metrics: "{name}" is the name of a figure that each run has; use another name.')
        if not isinstance(value, Metric) and not callable(value):
            raise UserError(
                f"metrics: {name} is a {type(value).__name__}; use a function of (probabilities, labels) that returns"
                " one number."
            )
        metrics[name] = value if isinstance(value, Metric) else _user_metric(name, value)
    return metrics


def _user_metric(name: str, function: UserMetric) -> Metric:
    def compute(predictions: Predictions) -> float:
        assert predictions.probabilities is not None  # `needs_probabilities`
        return function(predictions.probabilities, predictions.labels)

    title = name.replace("_", " ")
    return Metric(compute, title, title, name, as_number, greater_is_better=None, needs_probabilities=True)


def reduce_logits(
    logits: torch.Tensor, labels: torch.Tensor | None, keep_probabilities: bool = False
) -> tuple[torch.Tensor, ...]:
    """Reduce the logits of a batch to what the metrics need, on the same device and without waiting for it.

    Args:
        logits: (batch, classes), of any float dtype.
        labels: Class ids, int64 (batch,). A negative one means that the image has no label, None that none has one.
        keep_probabilities: Whether the fifth tensor is returned.

    Returns:
        - predictions, int64 (batch,): the class of the largest logit;
        - top-5 hits, bool (batch,): whether the label is among the five largest logits; False without a label;
        - losses, float32 (batch,): cross entropy in nats, without label smoothing; NaN without a label;
        - confidences, float32 (batch,): the probability of the predicted class;
        - with `keep_probabilities`, probabilities, float32 (batch, classes): the softmax of the logits.
    """
    predictions = logits.argmax(dim=-1)
    if labels is None:
        labels = torch.full_like(predictions, NOT_COUNTED)
    unlabelled = labels < 0
    top5 = logits.topk(min(LIKELIEST, logits.shape[-1]), dim=-1).indices
    top5_hits = (top5 == labels[:, None]).any(dim=-1)
    targets = labels.masked_fill(unlabelled, NOT_COUNTED)
    log_probabilities = logits.float().log_softmax(dim=-1)
    losses = functional.nll_loss(log_probabilities, targets, reduction="none", ignore_index=NOT_COUNTED)
    confidences = log_probabilities.amax(dim=-1).exp()
    del log_probabilities
    if logits.numel() >= _MANY:
        release_freed_memory(logits.device)
    reduced = predictions, top5_hits, losses.masked_fill(unlabelled, float("nan")), confidences
    return (*reduced, logits.float().softmax(dim=-1)) if keep_probabilities else reduced


class ClassificationMetrics:
    """The Trainer's `compute_metrics`, and with `reduce_logits` its `preprocess_logits_for_metrics`."""

    def __init__(self, label_names: Sequence[str], metrics: Mapping[str, Metric] = METRICS) -> None:
        """Choose the metrics that apply to a model.

        Args:
            label_names: The names of the model's classes by class id.
            metrics: All metrics of the run by name (`run_metrics`).
        """
        self.num_classes = len(label_names)
        self.metrics = {name: metric for name, metric in metrics.items() if self.num_classes >= metric.min_classes}
        needed = any(metric.needs_probabilities for metric in self.metrics.values())
        self._keep_probabilities = needed or self.num_classes <= MOST_WHOLE

    @property
    def names(self) -> list[str]:
        """Names of the figures: what `metric_for_best_model` may be."""
        return list(self.metrics)

    def greater_is_better(self, name: str, setting: bool | None) -> bool:
        """Return whether a larger figure of the metric `name` is better.

        Args:
            name: One of `names`.
            setting: `TrainingArguments.greater_is_better`. Transformers fills it in by the metric's name alone, False
                for a name that ends in "loss". Where the setting is not that default, the user chose it and it wins.
        """
        default = not name.endswith("loss")
        declared = self.metrics[name].greater_is_better
        if setting is not None and (setting != default or declared is None):
            return setting
        return default if declared is None else declared

    def reduce_logits(self, logits: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Reduce the logits of a batch to what the figures of a run need; see the function `reduce_logits`.

        Where probabilities are not kept, those of the `likeliest` classes follow in their place.
        """
        reduced = reduce_logits(logits, labels, self._keep_probabilities)
        return reduced if self._keep_probabilities else (*reduced, *likeliest(logits))

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Compute the figures of one split.

        Args:
            prediction: `predictions` is the tuple of `reduce_logits` as arrays over the whole split, `label_ids` is
                int64 (images,). Images without a label (a negative one) are not counted.

        Returns:
            The figure of each of `names`, and `samples`, the number of images that were counted.

        Raises:
            UserError: If no image has a label, or a user's metric does not return one number.
        """
        predictions = self.predictions(prediction)
        figures = {name: _one_number(name, metric.compute(predictions)) for name, metric in self.metrics.items()}
        return {**figures, "samples": len(predictions.labels)}

    def intervals(self, predictions: Any) -> dict[str, Interval]:
        """Return the 95 % intervals of the figures that have one, by the name of the figure.

        Args:
            predictions: What the method `predictions` returns.
        """
        return {
            name: metric.interval(predictions) for name, metric in self.metrics.items() if metric.interval is not None
        }

    def predictions(self, prediction: EvalPrediction | PredictionOutput) -> Any:
        """Return the `Predictions` of what `reduce_logits` returned for a split."""
        labels = np.asarray(prediction.label_ids)
        labelled = labels >= 0
        check_any_label(labelled)
        arrays = [np.asarray(array)[labelled] for array in prediction.predictions]
        return Predictions(
            classes=arrays[0],
            labels=labels[labelled],
            top5_hits=arrays[1],
            losses=arrays[2],
            confidences=arrays[3],
            num_classes=self.num_classes,
            probabilities=arrays[4] if len(arrays) == 5 else None,
        )


def check_any_label(labelled: NDArray[np.bool_]) -> None:
    """Raise `UserError` where no image has a label, bool (images,)."""
    if not labelled.any():
        raise UserError(
            f"None of the {len(labelled)} images to evaluate has a label (all are below 0);"
            " choose a split with labels by --test_split or --validation_split."
        )


def _one_number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"metrics: {name} returned a {type(value).__name__}; use a function that returns one number."
        ) from error
