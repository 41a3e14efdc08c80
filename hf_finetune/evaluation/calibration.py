"""Whether scores are what they say: of the images with a score of 80 %, are 80 % classified correctly?

A network that was trained for long gives scores that are too high. Dividing its logits by one number, the temperature,
corrects most of that and changes no prediction (Guo et al., "On calibration of modern neural networks", ICML 2017,
arXiv:1706.04599).
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

_BINS = 15  # as Guo et al. have
_FOLDS = 5
_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures


class ReliabilityBin(TypedDict):
    """The images whose score, that of the predicted class, is above `low` and at most `high`: parts of 1.

    `confidence` is the mean of their scores, `accuracy` the share of them that is classified correctly.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def reliability(confidences: NDArray[np.float32], correct: NDArray[np.bool_]) -> list[ReliabilityBin]:
    """Return the bins, 15 of equal width, that hold an image.

    Args:
        confidences: Probability of the predicted class, float32 (images,).
        correct: Whether the prediction is the label, bool (images,).
    """
    places = np.clip(np.ceil(confidences.astype(np.float64) * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    images = np.bincount(places, minlength=_BINS)
    scores = np.bincount(places, confidences, _BINS)
    hits = np.bincount(places, correct, _BINS)
    return [
        {
            "low": place / _BINS,
            "high": (place + 1) / _BINS,
            "images": int(images[place]),
            "confidence": float(scores[place] / images[place]),
            "accuracy": float(hits[place] / images[place]),
        }
        for place in np.flatnonzero(images).tolist()
    ]


def expected_calibration_error(confidences: NDArray[np.float32], correct: NDArray[np.bool_]) -> float:
    r"""Return the mean difference of score and accuracy over the bins, weighted by their images.

    .. math::
        \mathrm{ECE} = \sum_m \frac{|B_m|}{n} \left| \mathrm{acc}(B_m) - \mathrm{conf}(B_m) \right|

    Args:
        confidences: Probability of the predicted class, float32 (images,).
        correct: Whether the prediction is the label, bool (images,).
    """
    gaps = (row["images"] * abs(row["accuracy"] - row["confidence"]) for row in reliability(confidences, correct))
    return math.fsum(gaps) / len(confidences)


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature that gives the least cross entropy, between 0.05 and 20.

    The cross entropy is convex in the inverse of the temperature, so a bounded search in float64 finds its one minimum.

    Args:
        logits: Logits, finite, float32 (images, classes).
        labels: Class ids, int64 (images,).
    """
    from scipy.optimize import minimize_scalar  # scipy imports for a moment, and only calibrated runs need it

    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    found = minimize_scalar(
        lambda inverse: float(np.mean(_cross_entropies(wide, labels, inverse))),
        bounds=(1 / _HIGHEST, 1 / _LOWEST),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return 1 / float(found.x)


def temperature_helps(logits: NDArray[np.float32], labels: NDArray[np.int64], seed: int = 0) -> bool:
    """Return whether images tell a temperature that lowers the cross entropy of others, by cross-validation.

    The temperature of four fifths of the images is tried on the last fifth, five times. One wrong image among a
    hundred is not enough: the four fifths without it would have a network be as sure as can be.

    Args:
        logits: As in `fit_temperature`.
        labels: Likewise.
        seed: Of the division into fifths.
    """
    if len(labels) < _FOLDS:
        return False
    fifths = np.random.default_rng(seed).permutation(len(labels)) % _FOLDS
    held_out = 0.0
    for fold in range(_FOLDS):
        rest, own = fifths != fold, fifths == fold
        inverse = 1 / fit_temperature(logits[rest], labels[rest])
        held_out += float(_cross_entropies(logits[own].astype(np.float64), labels[own], inverse).sum())
    return held_out < float(_cross_entropies(logits.astype(np.float64), labels, 1.0).sum())


def _cross_entropies(logits: NDArray[np.float64], labels: NDArray[np.int64], inverse: float) -> NDArray[np.float64]:
    from scipy.special import logsumexp

    scaled: NDArray[np.float64] = logits * inverse
    losses: NDArray[np.float64] = logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]
    return losses
