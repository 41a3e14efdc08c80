"""The head of the nearest class mean, for a few images of each class: its arithmetic, on arrays."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

_SCALES = (-10.0, 10.0)  # natural logarithms of the scale's bounds, in units of the images' mean square distance


def fit_class_means(
    features: np.ndarray, labels: np.ndarray, num_labels: int
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Return the linear layer whose largest logit is of the class with the nearest mean.

    The nearest class mean (Mensink et al., "Distance-based image classification", TPAMI 2013; Snell et al.,
    "Prototypical networks for few-shot learning", NeurIPS 2017, arXiv:1703.05175) needs no training. With the mean m of
    a class, its logit is -s |x - m|^2 / 2 without the part that all classes share: s m x - s |m|^2 / 2. The scale s
    minimizes the cross entropy of the images, each against means that leave it out; no class is the nearer one for it.

    Args:
        features: Float (images, features).
        labels: Class ids, int64 (images,).
        num_labels: Classes of the layer. One without images is never the nearest.

    Returns:
        Weight, float32 (num_labels, features); bias, float32 (num_labels,); and the share of the images that are
        nearest to the mean of their class without themselves, None where no class has two images.
    """
    inputs, center = features.astype(np.float64), features.mean(axis=0, dtype=np.float64)
    inputs -= center  # so that squares lose no digits
    classes, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(classes), inputs.shape[1]))
    np.add.at(means, places, inputs)
    means /= counts[:, None]
    squares = (inputs**2).sum(1)[:, None] - 2 * inputs @ means.T + (means**2).sum(1)
    rows = np.arange(len(inputs))
    several = counts[places] > 1
    squares[rows[several], places[several]] *= (counts / np.maximum(counts - 1, 1))[places[several]] ** 2
    unit = max(float(squares.mean()), float(np.finfo(np.float32).tiny))
    scale, accuracy = 1 / unit, None
    if several.any():
        left_out, own = squares[several] / unit, places[several]
        scale = _best_scale(left_out, own) / unit
        accuracy = float(np.mean(left_out.argmin(axis=1) == own))
    weight = np.zeros((num_labels, inputs.shape[1]))
    weight[classes] = scale * means
    offsets = -scale * (means**2).sum(1) / 2 - scale * means @ center
    bias = np.full(num_labels, offsets.min())
    bias[classes] = offsets
    absent = np.setdiff1d(np.arange(num_labels), classes)
    weight[absent], bias[absent] = weight[classes[offsets.argmin()]], bias.min() - 10 * max(1.0, scale * unit)
    return weight.astype(np.float32), bias.astype(np.float32), accuracy


def _best_scale(squares: np.ndarray, labels: np.ndarray) -> float:
    """Return the scale of squared distances (images, classes) that gives the least cross entropy of labels."""

    def loss(logarithm: float) -> float:
        logits = log_softmax(-np.exp(logarithm) * squares / 2, axis=1)
        return -float(logits[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=_SCALES, method="bounded").x))
