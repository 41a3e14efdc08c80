"""How sure the figures of images with several labels are: they are computed again on resampled images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hf_finetune.logs import progress_bar

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_RESAMPLES, _FEWEST = 1_000, 100
_MOST_DRAWS = 40_000_000  # images times classes times resamples
_SECONDS_BEFORE_BAR = 2
_MOST_AT_ONCE = 2_000_000  # images times resamples, so that arrays stay below 16 megabytes


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
    ranks = [_Ranking.of(logits[:, class_id], has_label[:, class_id]) for class_id in range(logits.shape[1])]
    correct_and_total = np.hstack([given & has_label, given.astype(np.float32) + has_label]).astype(np.float32)
    starts = range(0, resamples, at_once)
    for start in progress_bar(starts, desc="intervals", unit="part", delay=_SECONDS_BEFORE_BAR):
        part = slice(start, min(start + at_once, resamples))
        drawn = random.multinomial(images, np.full(images, 1 / images), part.stop - start).T.astype(np.float32, "C")
        precisions = np.stack([rank.average_precision(drawn) for rank in ranks], axis=1)
        seen = ~np.isnan(precisions)
        means[0, part] = np.where(seen, precisions, 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
        correct, total = np.split((drawn.T @ correct_and_total).astype(np.float64), 2, axis=1)
        means[1, part] = 2 * correct.sum(axis=1) / np.maximum(total.sum(axis=1), 1)
        means[2, part] = (2 * correct / np.maximum(total, 1)).sum(axis=1) / np.maximum((total > 0).sum(axis=1), 1)
    return means[0], means[1], means[2]


@dataclass(frozen=True)
class _Ranking:
    """The images in the order of their scores for one class, summed up where an image has it.

    Precision counts only where recall rises, at images that have the class. So the others are added up between two of
    them, by a sparse matrix that sums rows of weights, and are never sorted again.

    Attributes:
        images: float32 (groups, images): 1 for the images of a group, which ends with those whose score an image that
            has the class has, too.
        hits: float32 (groups, images): 1 for those of them that have the class.
    """

    images: csr_array
    hits: csr_array

    @classmethod
    def of(cls, scores: NDArray[np.float32], has_label: NDArray[np.bool_]) -> _Ranking:
        """Return the ranking by the scores of a class, float32 (images,), which some images have, bool (images,)."""
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)) + 1  # equal scores count at once
        found = np.flatnonzero(has_label[order])
        ends = np.unique(ends[np.searchsorted(ends, found, side="right")])
        last = ends[-1] if len(ends) else 0
        hits = _sums(order[found], np.searchsorted(found, ends), len(scores))
        return cls(_sums(order[:last], ends, len(scores)), hits)

    def average_precision(self, drawn: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the average precision of each resample, float64 (resamples,), NaN without an image of the class.

        Args:
            drawn: How often each resample has each image, float32 (images, resamples): sums of these are exact.
        """
        if not self.hits.nnz:
            return np.full(drawn.shape[1], np.nan)
        gains = (self.hits @ drawn).astype(np.float64)
        hits = gains.cumsum(axis=0)
        precision = hits / np.maximum((self.images @ drawn).cumsum(axis=0), 1)
        with np.errstate(invalid="ignore"):  # 0 / 0
            figures: NDArray[np.float64] = (gains * precision).sum(axis=0) / hits[-1]
        return figures


def _sums(images: NDArray[np.int64], ends: NDArray[np.int64], count: int) -> csr_array:
    """Return what sums the rows of images from each end to the next, float32 (ends, count) of zeros and ones."""
    from scipy.sparse import csr_array

    return csr_array(
        (np.ones(len(images), np.float32), images.astype(np.int32), np.append(0, ends)), (len(ends), count)
    )
