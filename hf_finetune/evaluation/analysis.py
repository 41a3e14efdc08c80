"""What a model confuses: the figures of each class, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class ClassFigures(TypedDict):
    """The figures of one class: parts of 1, and `support`, the number of images with that label."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


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
    classes = len(label_names)
    labelled = labels >= 0
    cells = labels[labelled] * classes + predictions[labelled]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


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
    with np.errstate(invalid="ignore"):  # 0 / 0
        recall = correct / support
        precision = np.where(support > 0, correct / np.maximum(predicted, 1), np.nan)
        f1 = np.where(support > 0, 2 * correct / (support + predicted), np.nan)
    return [
        {
            "name": name,
            "precision": float(precision[class_id]),
            "recall": float(recall[class_id]),
            "f1": float(f1[class_id]),
            "support": int(support[class_id]),
        }
        for class_id, name in enumerate(label_names)
    ]
