"""Which labels of a split may be wrong, by confident learning.

A label is a suspect where the model, which was not trained on the image, is surer of another class than it is of that
class on average where it is the label (Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in
dataset labels", Journal of Artificial Intelligence Research 70, 2021, arXiv:1911.00068, the off-diagonal of the
confident joint). Mistakes of the model are among the suspects as well as mistakes of the labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def label_suspects(
    labels: NDArray[np.int64],
    own: NDArray[np.float32],
    classes: NDArray[np.int32],
    probabilities: NDArray[np.float32],
    num_classes: int,
) -> NDArray[np.int64]:
    """Return the places of the images whose labels are suspects, int64, those with the largest margin first.

    Args:
        labels: Class ids, int64 (images,), none negative.
        own: The probability of the label, float32 (images,).
        classes: The likeliest classes of each image, the likeliest first, int32 (images, k).
        probabilities: Theirs, float32 (images, k).
        num_classes: Number of classes of the model.
    """
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, own, minlength=num_classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)  # an absent class explains nothing
    sure = probabilities >= thresholds[classes]
    first = np.argmax(sure, axis=1)  # the likeliest of those that the model is sure of
    images = np.arange(len(labels))
    suspects = np.flatnonzero(sure.any(axis=1) & (classes[images, first] != labels))
    margins = probabilities[suspects, first[suspects]] - own[suspects]
    return suspects[np.argsort(-margins, kind="stable")]
