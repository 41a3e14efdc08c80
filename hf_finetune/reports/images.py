"""The images of a split that was evaluated: what they are called, their slices, and small copies of some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL.Image import Image

from hf_finetune.cores import usable_cores
from hf_finetune.data.columns import image_paths
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.bands import read_band_header, read_bands, shown_bands
from hf_finetune.data.images.decoding import AS_STORED, Decoding, OpenImage, UnreadableImage, reduction_for, shown_name
from hf_finetune.logs import progress_bar
from hf_finetune.pages.thumbnails import LARGEST_SIDE

_MOST_PIXELS = 150_000_000  # of the images that are read for thumbnails together; a core decodes these in seconds


class SplitImages:
    """The images of a split.

    Attributes:
        rows: Their rows in the split of the source, int64 (images,).
        names: Their paths below the folder of the dataset, or their rows.
        slices: By column of `slice_columns`, the value of each.
    """

    def __init__(self, data: ImageDataset, role: str, how: Decoding = AS_STORED) -> None:
        """Look up names and slices; no image is read.

        Args:
            data: The dataset.
            role: The split.
            how: What decides the pixels of an image beside its file.
        """
        split = data.splits[role]
        self._source, self._how = data.sources.get(role), how
        self.rows, self.slices = data.source_rows(role), data.slice_values(role)
        if not isinstance(split, Dataset):
            self.names = [f"row {row} of {role}" for row in range(len(split))]
            return
        self.names = names_of_rows(data, role, self.rows)

    @property
    def can_be_read(self) -> bool:
        """Whether images can be read again: those of a stream cannot."""
        return self._source is not None

    def encoded(self, places: Sequence[int]) -> list[Any]:
        """Return the images at some places of the split as they are stored."""
        return encoded_images(self._source, [int(self.rows[place]) for place in places])

    def small(self, places: Sequence[int]) -> list[Image | None]:
        """Return small copies of the images at some places of the split; see `small_images`."""
        return small_images(self._source, [int(self.rows[place]) for place in places], self._how)


def encoded_images(source: Dataset | None, rows: Sequence[int | None]) -> list[Any]:
    """Return some images as they are stored; see `small_images` for the arguments."""
    return [None if source is None or row is None else source[row]["image"] for row in rows]


def small_images(source: Dataset | None, rows: Sequence[int | None], how: Decoding) -> list[Image | None]:
    """Return small copies of some images, in RGB; see `shown_bands` for images that are not.

    Args:
        source: The column `image` of the split of the source; None for a stream.
        rows: Their rows, the most important first, None for an image that is not there any more.
        how: What decides the pixels of an image beside its file.

    Returns:
        In the order of `rows`, None for what is not there or cannot be read, and for the last ones of large images.
    """
    left, values = _MOST_PIXELS, []
    for value in encoded_images(source, rows):
        left -= _pixels(value, how)
        values.append(value if left >= 0 else None)
    with ThreadPoolExecutor(usable_cores()) as pool:
        read = pool.map(partial(_small, how=how), values)
        return list(progress_bar(read, total=len(values), desc="thumbnails", unit="image", delay=2))


def names_of_rows(data: ImageDataset, role: str, rows: NDArray[np.int64]) -> list[str]:
    """Return what `BadImages.name` calls the images of some rows of the source, int64; no image is read."""
    pairs = zip(rows.tolist(), image_paths(data.sources[role]).take(rows).to_pylist(), strict=True)
    return [shown_name(path, data.folder, role, row) for row, path in pairs]


def _pixels(value: Any, how: Decoding) -> int:
    if value is None:
        return 0
    try:
        if how.channels is not None:
            return how.channels * math.prod(read_band_header(value, how.channels).size)
        with OpenImage(value) as image:
            return image.height * image.width
    except UnreadableImage:
        return 0


def _small(value: Any, how: Decoding) -> Image | None:
    if value is None:
        return None
    try:
        if how.channels is not None:
            small = shown_bands(read_bands(value, how.channels))
            small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
            return small
        with OpenImage(value) as image:
            longest = max(image.height, image.width)
            small = image.decode(reduction_for(longest, longest, LARGEST_SIDE, LARGEST_SIDE), how)
    except UnreadableImage:
        return None
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return small
