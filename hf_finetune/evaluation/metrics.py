"""From logits to figures.

The road has two stages. `reduce_logits` runs on the device after every evaluation batch and leaves three numbers an
image, so that 50,000 images of 1,000 classes cost 0.6 MB instead of 200 MB. `ClassificationMetrics` runs once, on
the gathered arrays, and asks the local `evaluate` module for the figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import EvalPrediction

from hf_finetune.data.batches import NOT_COUNTED
from hf_finetune.errors import UserError

_MODULE = Path(__file__).parent / "modules" / "image_classification"


def reduce_logits(logits: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reduces the logits of a batch to what the metrics need: the Trainer's `preprocess_logits_for_metrics`.

    `logits` is (batch, classes), of any float dtype; `labels` is int64 (batch,), a negative one meaning that the
    image has no label, or None where no image has one. Returns, on the same device and without waiting for it:

    - predictions, int64 (batch,): the class of the largest logit;
    - top-5 hits, bool (batch,): whether the label is among the five largest logits; a figure only where there are
      more than five classes; False without a label;
    - losses, float32 (batch,): the cross entropy of each image in nats, without label smoothing; NaN without
      a label.
    """
    predictions = logits.argmax(dim=-1)
    if labels is None:
        labels = torch.full_like(predictions, NOT_COUNTED)
    unlabelled = labels < 0
    top5 = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    top5_hits = (top5 == labels[:, None]).any(dim=-1)
    targets = labels.masked_fill(unlabelled, NOT_COUNTED)
    losses = functional.cross_entropy(logits.float(), targets, reduction="none", ignore_index=NOT_COUNTED)
    return predictions, top5_hits, losses.masked_fill(unlabelled, float("nan"))


class ClassificationMetrics:
    """The Trainer's `compute_metrics`: figures of one split from the arrays that `reduce_logits` left.

    The `evaluate` module comes from this package, without network. It keeps its inputs in memory, so any number of
    processes may compute at once.
    """

    def __init__(self, label_names: Sequence[str]) -> None:
        self.num_labels = len(label_names)

    @cached_property
    def _module(self) -> Any:
        import evaluate  # a second of imports that no training step has to wait for

        return evaluate.load(str(_MODULE), keep_in_memory=True)

    @property
    def names(self) -> list[str]:
        """What the figures are called: what `metric_for_best_model` may name."""
        top5 = ["top5_accuracy"] if self.num_labels > 5 else []
        return ["accuracy", *top5, "macro_f1", "balanced_accuracy", "loss"]

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Returns accuracy, macro_f1, balanced_accuracy, loss, samples, and top5_accuracy with more than five classes.

        `prediction.predictions` is the tuple of `reduce_logits` as arrays of shape (images,), `label_ids` int64
        (images,). Images without a label (a negative one) are not counted; `samples` is the number of the others.
        All but loss (nats) and samples are parts of 1. The loss is the mean over images, so an uneven last batch
        weighs what it holds.

        A split need not hold every class. As in scikit-learn, macro F1 is the mean over the classes that occur among
        the labels or the predictions, and balanced accuracy is the mean recall over the classes that occur among the
        labels. Raises `UserError` where no image has a label.
        """
        predictions, top5_hits, losses = prediction.predictions
        labelled = prediction.label_ids >= 0
        if not labelled.any():
            raise UserError(
                f"None of the {len(labelled)} images to evaluate has a label (all are below 0);"
                " choose a split with labels by --test_split or --validation_split."
            )
        with _many_classes_are_no_regression():
            return self._module.figures(
                predictions=predictions[labelled],
                references=prediction.label_ids[labelled],
                top5_hits=top5_hits[labelled],
                losses=losses[labelled],
                num_labels=self.num_labels,
            )


def per_class_figures(predictions: np.ndarray, labels: np.ndarray, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns one mapping a class, in the order of class ids: name, precision, recall, f1 (parts of 1), support.

    `predictions` and `labels` are int64 (images,); images with a negative label are not counted. Support is the
    number of images with that label. A figure that would divide by zero is 0.
    """
    from sklearn.metrics import precision_recall_fscore_support  # see `ClassificationMetrics`

    labelled = labels >= 0
    if not labelled.any():
        columns = [np.zeros(len(label_names))] * 4
    else:
        with _many_classes_are_no_regression():
            columns = precision_recall_fscore_support(
                labels[labelled], predictions[labelled], labels=range(len(label_names)), zero_division=0.0
            )
    return [
        {
            "name": name,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
        }
        for name, precision, recall, f1, support in zip(label_names, *columns, strict=True)
    ]


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Returns the number of images of each label (row) that were given each class (column).

    `predictions` and `labels` are int64 (images,); images with a negative label are not counted. The matrix is
    int64 (classes, classes).
    """
    from sklearn import metrics  # see `ClassificationMetrics`

    num_labels = len(label_names)
    labelled = labels >= 0
    if not labelled.any():
        return np.zeros((num_labels, num_labels), dtype=np.int64)
    with _many_classes_are_no_regression():
        matrix = metrics.confusion_matrix(labels[labelled], predictions[labelled], labels=range(num_labels))
    return matrix.astype(np.int64)


@contextmanager
def _many_classes_are_no_regression() -> Iterator[None]:
    # With more classes than half the images, scikit-learn asks whether the labels are a regression's.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        yield
