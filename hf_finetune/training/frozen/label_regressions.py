"""The probe of a head for several labels: a logistic regression for each class, all of them fitted together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from hf_finetune.evaluation.multi_label import average_precisions
from hf_finetune.logs import progress_bar

_ITERATIONS = 200  # of L-BFGS for each strength


def fit_label_regressions(
    features: NDArray[np.float32],
    has_label: NDArray[np.bool_],
    held_out_features: NDArray[np.float32],
    held_out_labels: NDArray[np.bool_],
    strengths: Sequence[float],
    mean: NDArray[np.float64],
    scale: float,
    label_weights: NDArray[np.float64] | float = 1.0,
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Return weight (classes, features), bias (classes,) and the mAP on what was held out, a part of 1.

    The problems of the classes do not depend on each other. One L-BFGS solves them side by side, because its products
    of whole matrices take less time than a solver for each class. One strength of L2 serves all: the one with the least
    binary cross entropy on what is held out.

    Args:
        features: Float32 (images, features).
        has_label: Bool (images, classes).
        held_out_features: As `features`.
        held_out_labels: As `has_label`.
        strengths: scikit-learn's C, in ascending order.
        mean: Of each feature, (features,), which is taken off.
        scale: Of all features, by which they are divided.
        label_weights: What the part of each label that an image has is multiplied by, (classes,).
    """
    scaled, held_out = (((own - mean) / scale).astype(np.float32) for own in (features, held_out_features))
    targets = has_label.astype(np.float32)
    weights = np.zeros((scaled.shape[1] + 1, targets.shape[1]))
    weighted = targets.sum(axis=0) * label_weights
    least = 1 / (len(targets) + 1)
    share = np.clip(weighted / (weighted + (1 - targets).sum(axis=0)), least, 1 - least)
    weights[-1] = np.log(share / (1 - share))  # what the classes are without any features
    best = np.inf
    for strength in progress_bar(strengths, desc="Probing the head", delay=2, leave=False):
        found = minimize(
            _objective,
            weights.ravel(),
            args=(scaled, targets, strength, label_weights),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _ITERATIONS, "gtol": 1e-4 * strength * len(targets)},
        )
        weights = found.x.reshape(weights.shape)  # the next strength begins here
        logits = held_out @ weights[:-1] + weights[-1]
        loss = float(np.sum(_cross_entropies(logits, held_out_labels, label_weights)))
        if loss >= best:
            break  # the loss has one valley over the strengths
        weight = weights[:-1].T / scale
        bias = weights[-1] - weight @ mean
        figure = float(np.nanmean(average_precisions(logits.astype(np.float32), held_out_labels)))
        best, chosen = loss, (weight.astype(np.float32), bias.astype(np.float32), figure)
    return chosen


def _objective(
    flat: NDArray[np.float64],
    features: NDArray[np.float32],
    targets: NDArray[np.float32],
    strength: float,
    label_weights: NDArray[np.float64] | float,
) -> tuple[float, NDArray[np.float64]]:
    """Return scikit-learn's objective of all classes, and its gradient: half of the squared weights, and C times the
    cross entropies. The bias, the last row of the weights, has no L2.
    """
    weights = flat.reshape(features.shape[1] + 1, targets.shape[1])
    logits = features @ weights[:-1].astype(np.float32) + weights[-1]
    loss = strength * float(np.sum(_cross_entropies(logits, targets, label_weights), dtype=np.float64))
    scores = expit(logits)
    residuals = (1 - targets) * scores - label_weights * targets * (1 - scores)
    gradient = np.empty_like(weights)
    gradient[:-1] = strength * (features.T @ residuals.astype(np.float32)) + weights[:-1]
    gradient[-1] = strength * residuals.sum(axis=0, dtype=np.float64)
    return loss + 0.5 * float(np.sum(weights[:-1] ** 2)), gradient.ravel()


def _cross_entropies(
    logits: NDArray[np.floating], targets: NDArray[Any], label_weights: NDArray[np.float64] | float
) -> NDArray[np.floating]:
    """Return the binary cross entropy of each image and class, the part of labels that are there weighted."""
    absent: NDArray[np.floating] = np.logaddexp(0, logits)  # of a no; that of a yes is `absent - logits`
    return (1 - targets) * absent + label_weights * targets * (absent - logits)
