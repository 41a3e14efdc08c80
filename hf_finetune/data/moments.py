"""Mean and standard deviation of the channels of images, as they are before anything is resized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.cores import usable_cores
from hf_finetune.data.dataset import Split
from hf_finetune.data.images.bands import read_bands
from hf_finetune.data.images.decoding import Decoding, UnreadableImage, decode_image
from hf_finetune.data.splits import random_subset
from hf_finetune.data.streaming.split import StreamedSplit
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import progress_bar

_CHUNK = 256  # images in memory at a time
_SECONDS_BEFORE_BAR = 2
_RGB = 3
_LEVELS = np.arange(256)

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each channel over a sample of images.

    Attributes:
        mean: Of each channel, on the scale of 0 to 255, or in the units of files that are read as they are stored.
        std: Likewise.
        images: How many images count.
        unreadable: How many of the sample could not be read.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int
    unreadable: int


def measure(split: Split, images: int, seed: int, how: Decoding) -> Moments:
    """Measure the channels of a sample of a split.

    An image counts like any other, whatever its size, because a network sees all at one size; so do the pixels of an
    image.

    Args:
        split: The split.
        images: How many images to read at most; of a stream, whole shards are drawn.
        seed: Draws them.
        how: What decides the pixels beside the files.
    """
    values, count = _sample(split, images, seed)
    totals, read = np.zeros((2, how.channels or _RGB)), 0
    bar = progress_bar(total=count, desc="Reading images", unit="image", delay=_SECONDS_BEFORE_BAR)
    with bar, ThreadPoolExecutor(usable_cores()) as pool:
        while chunk := list(islice(values, _CHUNK)):
            leave_if_interrupted()
            for sums in pool.map(partial(_means, how=how), chunk):
                if sums is not None:
                    totals += sums
                    read += 1
            bar.update(len(chunk))
    means, squares = totals / max(read, 1)
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    return Moments(tuple(means.tolist()), tuple(deviations.tolist()), read, count - read)


def _sample(split: Split, images: int, seed: int) -> tuple[Iterator[Any], int]:
    """Return the encoded images of a sample, and how many these are."""
    if isinstance(split, StreamedSplit):
        split.limit(images, seed)
        shards = (shard for shard, rows in enumerate(split.counts) if rows)
        return (row.image for shard in shards for row in split.read(shard)), len(split)
    chosen: Dataset = split.select(random_subset(len(split), images, seed), keep_in_memory=True)
    rows: Iterable[Any] = chosen.select_columns(["image"])
    return (row["image"] for row in rows), len(chosen)


def _means(value: Any, how: Decoding) -> Sums | None:
    """Return the means of an image's channels and of their squares, float64 (2, channels), in the units of `Moments`.

    None where it cannot be read.
    """
    try:
        if how.channels is not None:
            pixels = read_bands(value or {}, how.channels).astype(np.float64)
            return np.stack([pixels.mean(axis=(1, 2)), (pixels**2).mean(axis=(1, 2))])
        histogram = np.array(decode_image(value or {}, how).histogram()).reshape(_RGB, len(_LEVELS))
    except UnreadableImage:
        return None
    sums = histogram @ np.stack([_LEVELS, _LEVELS**2], axis=1)  # exact, of integers
    means: Sums = sums.T / histogram[0].sum()
    return means
