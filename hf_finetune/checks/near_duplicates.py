"""Pairs of images that are copies of each other, saved or resized anew.

Candidates agree in one of four bands of 16 bits of their perceptual hashes: two hashes that differ in at most three
bits do (Norouzi, Punjani and Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012). Of a band that
many share, only neighbours in brightness are compared (the sorted neighbourhood of Hernandez and Stolfo, SIGMOD 1995),
so that the work grows with the number of images and not with its square.

A candidate is a copy if its thumbnail is nearly the same and much nearer than what is merely alike: Lowe's ratio
("Distinctive image features from scale-invariant keypoints", IJCV 2004). So the handwritten ones of MNIST, whose hashes
collide, are no copies of each other. A mirrored, cropped or recoloured copy is not found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Pairs = npt.NDArray[np.int64]

_BANDS = 4
_NEIGHBOURS = 16  # in the order of brightness, that an image is compared with in each band
_MOST_BITS = 8  # of 63 that may differ: copies at three quarters of the size and a JPEG quality of 70 differ in 6
# The distance of two thumbnails is the root mean square of their difference, each at mean 0 and variance 1. Of such
# copies it is 0.31 at most, of the nearest neighbours in CIFAR-10 0.78 in the median.
_FARTHEST = 0.35
_RATIO = 0.3  # to the distance of what is alike: of 50,000 images of MNIST, no pair is below 0.32
_ALIKE = 3  # what is alike is the third nearest of the others: the first two may be copies too
_OTHERS = 5_000
_MOST_COPIES = 20  # of one image: a larger cluster is of images that are alike
_MEAN_COLOUR = 6.0  # levels of 0 to 255 by which the mean of a channel may differ
_LEAST_CONTRAST = 2.0  # levels of standard deviation: below, a thumbnail is noise
_PART = 512  # rows of a matrix of distances at a time


def near_duplicates(
    hashes: npt.NDArray[np.uint64],
    thumbnails: npt.NDArray[np.uint8],
    colours: npt.NDArray[np.float32],
    usable: npt.NDArray[np.bool_],
    seed: int = 0,
) -> Pairs:
    """Return the pairs of images that are copies.

    Args:
        hashes: Perceptual hashes, uint64 (images,).
        thumbnails: Luminance, uint8 (images, 16, 16).
        colours: The mean of each channel, 0 to 255, float32 (images, 3).
        usable: Which images are compared, bool (images,).
        seed: Draws the images that others are compared with.

    Returns:
        Rows, int64 (pairs, 2), each pair once and ascending. Of several copies of one image, pairs connect all, but not
        each with each.
    """
    rows = np.flatnonzero(usable & (thumbnails.std(axis=(1, 2), dtype=np.float32) >= _LEAST_CONTRAST))
    found = [rows[pairs] for pairs in _candidates(hashes[rows], thumbnails[rows].mean(axis=(1, 2)))]
    pairs = np.unique(np.concatenate(found or [np.empty((0, 2), np.int64)]), axis=0)
    same_colour = (np.abs(colours[pairs[:, 0]] - colours[pairs[:, 1]]) <= _MEAN_COLOUR).all(axis=1)
    pairs = pairs[same_colour]
    distances = _distances_of(pairs, thumbnails)
    near = distances <= _FARTHEST
    pairs, distances = pairs[near], distances[near]
    generator = np.random.default_rng(seed)
    others = np.sort(generator.permutation(rows)[:_OTHERS])
    mentioned, places = np.unique(pairs, return_inverse=True)
    alike = _distance_of_alike(mentioned, others, _clusters(pairs, len(hashes)), thumbnails)
    alike = alike[places.reshape(pairs.shape)].min(axis=1, initial=np.inf)
    return pairs[distances <= _RATIO * alike]


def connected(pairs: Pairs, count: int) -> npt.NDArray[np.int64]:
    """Return the number of the component that each of `count` images is in, int64 (count,), where pairs connect."""
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    component: npt.NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return component


def _clusters(pairs: Pairs, count: int) -> npt.NDArray[np.int64]:
    """Return the cluster of each image, int64 (count,): those that pairs connect, unless they are too many."""
    cluster = connected(pairs, count)
    large = np.bincount(cluster, minlength=1)[cluster] > _MOST_COPIES
    cluster[large] = count + np.flatnonzero(large)  # each its own
    return cluster


def _candidates(hashes: npt.NDArray[np.uint64], brightness: npt.NDArray[np.floating]) -> Iterator[Pairs]:
    for band in range(_BANDS):
        part = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((brightness, part))
        for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            first, second = order[:-step], order[step:]
            kept = part[first] == part[second]
            first, second = first[kept], second[kept]
            kept = _bits(hashes[first] ^ hashes[second]) <= _MOST_BITS
            yield np.sort(np.stack([first[kept], second[kept]], axis=1), axis=1)


def _bits(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return how many bits of each number are set."""
    count: npt.NDArray[np.int64] = _BITS_OF_BYTE[numbers.view(np.uint8).reshape(-1, 8)].sum(axis=1)
    return count


_BITS_OF_BYTE = np.array([number.bit_count() for number in range(256)])


def _standardized(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return thumbnails at mean 0 and variance 1, float32 (images, 256)."""
    flat = thumbnails.reshape(len(thumbnails), math.prod(thumbnails.shape[1:])).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(flat.std(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return flat


def _distances_of(pairs: Pairs, thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    parts = [
        np.sqrt(np.mean((_standardized(thumbnails[part[:, 0]]) - _standardized(thumbnails[part[:, 1]])) ** 2, axis=1))
        for part in np.split(pairs, range(_PART, len(pairs), _PART))
    ]
    return np.concatenate(parts)


def _distance_of_alike(
    rows: npt.NDArray[np.int64],
    others: npt.NDArray[np.int64],
    clusters: npt.NDArray[np.int64],
    thumbnails: npt.NDArray[np.uint8],
) -> npt.NDArray[np.float32]:
    """Return how far the third nearest of the others, of another cluster, is from each row; infinity without."""
    known = _standardized(thumbnails[others])
    found = np.full(len(rows), np.inf, np.float32)
    if len(others) <= _ALIKE:
        return found
    for start in range(0, len(rows), _PART):
        part = rows[start : start + _PART]
        # The mean square of a difference of two vectors of variance 1 is 2 less twice the mean of their product.
        squares = 2 - 2 * (_standardized(thumbnails[part]) @ known.T) / known.shape[1]
        squares[clusters[part][:, None] == clusters[others]] = np.inf
        found[start : start + _PART] = np.sqrt(np.maximum(np.partition(squares, _ALIKE - 1, axis=1)[:, _ALIKE - 1], 0))
    return found
