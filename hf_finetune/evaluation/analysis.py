"""What a model confuses: the figures of each class, and how many images of each label were given each class.

The pairs of classes are counted without those that never occur: the matrix of 21,841 classes has 477 million cells,
and 50,000 images fill 50,000 of them at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from hf_finetune.evaluation.intervals import Interval, wilson


class ClassFigures(TypedDict):
    """The figures of one class: parts of 1, and `support`, the number of images with that label.

    `recall_interval` is the 95 % score interval of the recall, None for a class without an image.
    """

    name: str
    precision: float
    recall: float
    recall_interval: Interval | None
    f1: float
    support: int


class LabelFigures(ClassFigures):
    """The figures of one class of images with several labels: those above, at its `threshold`, a probability.

    `average_precision` does not depend on it; it is NaN for a class that no image has.
    """

    average_precision: float
    threshold: float


class Confusion(TypedDict):
    """How many `images` of the class `label` were given the class `prediction`."""

    label: str
    prediction: str
    images: int


@dataclass(frozen=True)
class Confusions:
    """The cells of a confusion matrix that are not zero.

    Attributes:
        labels: Class id of the label, int64 (cells,).
        predictions: Predicted class id, int64 (cells,).
        images: Number of images with that label and that prediction, int64 (cells,), never 0.
        classes: Number of classes of the model.
    """

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    images: NDArray[np.int64]
    classes: int

    @classmethod
    def count(cls, predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> Confusions:
        """Count the pairs of label and prediction.

        Args:
            predictions: Predicted class ids, int64 (images,).
            labels: Class ids, int64 (images,). Images with a negative one are not counted.
            classes: Number of classes of the model.
        """
        labelled = labels >= 0
        cells = labels[labelled].astype(np.int64) * classes + predictions[labelled]
        pairs, images = np.unique(cells, return_counts=True)
        return cls(pairs // classes, pairs % classes, images.astype(np.int64), classes)

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.int64]) -> Confusions:
        """Return the cells of a whole matrix, int64 (classes, classes), whose rows are labels."""
        labels, predictions = np.nonzero(matrix)
        return cls(labels, predictions, matrix[labels, predictions], len(matrix))

    @property
    def correct(self) -> int:
        """Number of images whose prediction is their label."""
        return int(self.images[self.labels == self.predictions].sum())

    def matrix(self, classes_per_cell: int = 1) -> NDArray[np.int64]:
        """Return the matrix; rows are labels, columns predictions.

        Args:
            classes_per_cell: How many neighbouring class ids share a row, and a column.

        Returns:
            Numbers of images, int64 (cells, cells) with cells = ceil(classes / classes_per_cell).
        """
        side = -(-self.classes // classes_per_cell)
        matrix = np.zeros((side, side), dtype=np.int64)
        np.add.at(matrix, (self.labels // classes_per_cell, self.predictions // classes_per_cell), self.images)
        return matrix

    def most_frequent(self, label_names: Sequence[str], limit: int | None = None) -> list[Confusion]:
        """Return the pairs of different classes, the most frequent first.

        Args:
            label_names: Class names by class id.
            limit: The largest number of pairs; None is no limit.
        """
        wrong = np.flatnonzero(self.labels != self.predictions)
        order = wrong[np.argsort(-self.images[wrong], kind="stable")][:limit]
        return [
            {
                "label": label_names[self.labels[cell]],
                "prediction": label_names[self.predictions[cell]],
                "images": int(self.images[cell]),
            }
            for cell in order
        ]


def confusion_matrix(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], label_names: Sequence[str]
) -> NDArray[np.int64]:
    """Return the number of images of each label (row) that were given each class (column).

    Args:
        predictions: Predicted class ids, int64 (images,).
        labels: Class ids, int64 (images,). Images with a negative one are not counted.
        label_names: Class names by class id.

    Returns:
        The matrix, int64 (classes, classes).
    """
    return Confusions.count(predictions, labels, len(label_names)).matrix()


def per_class_figures(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], label_names: Sequence[str]
) -> list[ClassFigures]:
    """Return precision, recall, F1 and support of each class, in the order of class ids.

    Args:
        predictions: Predicted class ids, int64 (images,).
        labels: Class ids, int64 (images,). Images with a negative one are not counted.
        label_names: Class names by class id.

    Returns:
        One mapping per class. The precision of a class that was never predicted is 0. The figures of a class without
        an image are NaN: the table shows "-", and JSON null.
    """
    classes, labelled = len(label_names), labels >= 0
    labels, predictions = labels[labelled], predictions[labelled]
    support = np.bincount(labels, minlength=classes)
    predicted = np.bincount(predictions, minlength=classes)
    correct = np.bincount(labels[labels == predictions], minlength=classes)
    return figures_of_counts(support, predicted, correct, label_names)


def figures_of_counts(
    support: NDArray[np.int64], predicted: NDArray[np.int64], correct: NDArray[np.int64], label_names: Sequence[str]
) -> list[ClassFigures]:
    """Return the figures of each class; see `per_class_figures`.

    Args:
        support: How many images have each class, int64 (classes,).
        predicted: How many images were given it.
        correct: How many images that have it were given it.
        label_names: Class names by class id.
    """
    with np.errstate(invalid="ignore"):  # 0 / 0
        recall = correct / support
        precision = np.where(support > 0, correct / np.maximum(predicted, 1), np.nan)
        f1 = np.where(support > 0, 2 * correct / (support + predicted), np.nan)
    low, high = wilson(correct, support)
    return [
        {
            "name": name,
            "precision": float(precision[class_id]),
            "recall": float(recall[class_id]),
            "recall_interval": (float(low[class_id]), float(high[class_id])) if support[class_id] else None,
            "f1": float(f1[class_id]),
            "support": int(support[class_id]),
        }
        for class_id, name in enumerate(label_names)
    ]
