"""How sure the figures of images with several labels are: they are computed again on resampled images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hf_finetune.logs import progress_bar

_RESAMPLES, _FEWEST = 1_000, 100
_MOST_DRAWS = 40_000_000  # images times classes times resamples
_SECONDS_BEFORE_BAR = 2
_MOST_AT_ONCE = 1_000_000  # images times resamples, so that arrays stay below 10 megabytes


def resampled_label_sets(
    logits: NDArray[np.float32], has_label: NDArray[np.bool_], given: NDArray[np.bool_], seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mAP, micro F1 and macro F1 of images that are drawn again, with replacement (Efron 1979).

    Args:
        logits: Float32 (images, classes).
        has_label: Which classes each image has, bool (images, classes).
        given: Which classes each image is given, likewise.
        seed: Of the draws.

    Returns:
        The figures of each resample, float64 (resamples,). A class that no image of a resample has is left out of the
        mean of average precisions, and one that none has or is given out of the macro F1, as in the figures themselves.
        How often a resample has an image depends on the seed and on the number of images alone; where there are more
        classes, there are fewer resamples.
    """
    images = len(logits)
    resamples = int(np.clip(_MOST_DRAWS // max(1, logits.size), _FEWEST, _RESAMPLES))
    at_once = max(1, min(resamples, _MOST_AT_ONCE // images))
    random = np.random.default_rng(seed)
    means = np.empty((3, resamples))
    # Each class is sorted once, and a resample weighs its images: the last of equal logits ends a group of them.
    orders = [np.argsort(-logits[:, class_id], kind="stable") for class_id in range(logits.shape[1])]
    starts = range(0, resamples, at_once)
    for start in progress_bar(starts, desc="intervals", unit="part", delay=_SECONDS_BEFORE_BAR):
        part = slice(start, min(start + at_once, resamples))
        drawn = random.multinomial(images, np.full(images, 1 / images), part.stop - start).astype(np.float64)
        figures = [
            _average_precision(drawn[:, order], logits[order, class_id], has_label[order, class_id])
            for class_id, order in enumerate(orders)
        ]
        precisions = np.stack(figures, axis=1)
        seen = ~np.isnan(precisions)
        means[0, part] = np.where(seen, precisions, 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
        correct = drawn @ (given & has_label)
        total = drawn @ (given.astype(np.float64) + has_label)
        means[1, part] = 2 * correct.sum(axis=1) / np.maximum(total.sum(axis=1), 1)
        means[2, part] = (2 * correct / np.maximum(total, 1)).sum(axis=1) / np.maximum((total > 0).sum(axis=1), 1)
    return means[0], means[1], means[2]


def _average_precision(
    weights: NDArray[np.float64], scores: NDArray[np.float32], has_label: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the average precision of one class in each resample, float64 (resamples,), NaN without an image of it.

    Args:
        weights: How often each resample has each image, float64 (resamples, images), in the order of the scores.
        scores: Descending, float32 (images,).
        has_label: Bool (images,).
    """
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, True))
    hits = np.cumsum(weights * has_label, axis=1)[:, ends]
    precision = hits / np.maximum(np.cumsum(weights, axis=1)[:, ends], 1)
    gains = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):  # 0 / 0
        figures: NDArray[np.float64] = (gains * precision).sum(axis=1) / hits[:, -1]
    return figures
