"""Mean and standard deviation of the channels of a dataset, which an image processor normalizes by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.recipe import Recipe
from hf_finetune.cores import usable_cores
from hf_finetune.data.dataset import ImageDataset, Split
from hf_finetune.data.images.decoding import Decoding, UnreadableImage, decode_image
from hf_finetune.data.images.value_range import choose_range
from hf_finetune.data.sources.objects import GivenDataset
from hf_finetune.data.splits import random_subset, split_role
from hf_finetune.data.streaming.split import StreamedSplit
from hf_finetune.errors import UserError
from hf_finetune.evaluation.report import to_json
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import get_logger, progress_bar, write_result
from hf_finetune.training.wiring import load_data

logger = get_logger(__name__)

IMAGES = 10_000
_CHUNK = 256  # images in memory at a time
_SECONDS_BEFORE_BAR = 2
_CHANNELS = ("red", "green", "blue")
_LEVELS = np.arange(256)

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DatasetStats:
    """Mean and standard deviation of the pixels of a split, as they are before anything is resized.

    Attributes:
        dataset: What messages call the dataset.
        split: The split, in words.
        images: How many images count.
        of: How many the split has.
        unreadable: How many of the sample could not be read.
        mean: Of red, green and blue, parts of 1.
        std: Likewise.
        value_range: The values that became 0 and 1 in images of more than 8 bits; None without such images.
    """

    dataset: str
    split: str
    images: int
    of: int
    unreadable: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float] | None = None

    @property
    def image_mean(self) -> list[float]:
        """The recipe's key: the mean on the scale of 0 to 255."""
        return [round(255 * value, 3) for value in self.mean]

    @property
    def image_std(self) -> list[float]:
        """The recipe's key: the standard deviation on the scale of 0 to 255."""
        return [round(255 * value, 3) for value in self.std]

    def as_mapping(self) -> dict[str, Any]:
        """Return all of it, with the keys of a recipe, for a JSON file."""
        return {**vars(self), "image_mean": self.image_mean, "image_std": self.image_std}

    def text(self) -> str:
        """Return what the command prints."""
        left_out = f"; {self.unreadable:,} more cannot be read" if self.unreadable else ""
        lines = [f"{self.dataset}, {self.split}: {self.images:,} of {self.of:,} images{left_out}.", ""]
        lines.append(f"{'':<7}{'mean':>8}{'std':>8}")
        for channel, mean, std in zip(_CHANNELS, self.mean, self.std, strict=True):
            lines.append(f"{channel:<7}{mean:>8.4f}{std:>8.4f}")
        lines += ["", "In a recipe:", "", f"image_mean: {self.image_mean}", f"image_std: {self.image_std}"]
        if self.value_range is not None:
            lines.append(f"value_range: {[*self.value_range]}")
        return "\n".join(lines)


def run_stats(
    *,
    split: str | None = None,
    images: int = IMAGES,
    show: str | None = None,
    given: GivenDataset | None = None,
    **settings: Any,
) -> DatasetStats:
    """Return mean and standard deviation of the channels of a split.

    An image counts like any other, whatever its size, because a network sees all at one size; so do the pixels of an
    image.

    Args:
        split: By its role or its own name; absent, train, or the first that there is.
        images: How many images to read at most, drawn by `seed`; of a stream, whole shards are drawn.
        show: Write the figures to standard output, as "text" or as "json"; None writes nothing.
        given: A dataset that is open already.
        settings: Keys of a recipe that say which images.

    Raises:
        UserError: For a dataset that cannot be had, or without an image that can be read.
    """
    if images < 1:
        raise UserError(f"--images is {images}; use a number of at least 1.")
    if split is not None and split_role(split) is None:
        settings["test_split"] = split
    values = {**settings, "validation_fraction": 0}
    model, arguments, args = build_arguments(Recipe("stats", values, {key: f"--{key}" for key in values}))
    data = load_data(arguments, args, model.num_labels, False, given=None if given is None else given.raw)
    role = _choose_role(data, split)
    stated = arguments.value_range
    value_range, note = choose_range(data.wide_values, None if stated is None else (stated[0], stated[1]), data.source)
    if note:
        logger.info(note)
    found = data.splits[role]
    of = len(found)
    rows, count = _sample(found, images, args.seed)
    mean, std, unreadable = _moments(rows, count, Decoding(value_range=value_range))
    if unreadable == count:
        raise UserError(f"{data.source}: none of {count:,} images of {role} can be read.")
    if unreadable:
        logger.warning(f"{unreadable:,} of {count:,} images cannot be read and do not count.")
    name = without_private_text(data.source, Path.cwd())
    used = value_range if data.wide_values is not None else None
    stats = DatasetStats(name, data.split_names[role], count - unreadable, of, unreadable, mean, std, used)
    if show is not None:
        write_result(to_json(stats.as_mapping()).rstrip("\n") if show == "json" else stats.text())
    return stats


def _choose_role(data: ImageDataset, split: str | None) -> str:
    if split is None:
        return next(iter(data.splits))
    return data.existing_role(split_role(split) or "test", split)


def _sample(split: Split, images: int, seed: int) -> tuple[Iterator[Any], int]:
    """Return the encoded images of a sample, and how many these are."""
    if isinstance(split, StreamedSplit):
        split.limit(images, seed)
        shards = (shard for shard, rows in enumerate(split.counts) if rows)
        return (row.image for shard in shards for row in split.read(shard)), len(split)
    chosen: Dataset = split.select(random_subset(len(split), images, seed), keep_in_memory=True)
    return (row["image"] for row in chosen.select_columns(["image"])), len(chosen)


def _moments(images: Iterable[Any], count: int, how: Decoding) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Return mean and standard deviation of each channel, parts of 1, and how many images cannot be read."""
    totals, read = np.zeros((2, len(_CHANNELS))), 0
    images = iter(images)
    bar = progress_bar(total=count, desc="Reading images", unit="image", delay=_SECONDS_BEFORE_BAR)
    with bar, ThreadPoolExecutor(usable_cores()) as pool:
        while chunk := list(islice(images, _CHUNK)):
            leave_if_interrupted()
            for sums in pool.map(partial(_means, how=how), chunk):
                if sums is not None:
                    totals += sums
                    read += 1
            bar.update(len(chunk))
    means, squares = totals / max(read, 1)
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    return tuple((means / 255).tolist()), tuple((deviations / 255).tolist()), count - read


def _means(value: Any, how: Decoding) -> Sums | None:
    """Return the means of an image's channels and of their squares, float64 (2, channels), on the scale of 0 to 255."""
    try:
        histogram = np.array(decode_image(value or {}, how).histogram()).reshape(len(_CHANNELS), len(_LEVELS))
    except UnreadableImage:
        return None
    sums = histogram @ np.stack([_LEVELS, _LEVELS**2], axis=1)  # exact, of integers
    return sums.T / histogram[0].sum()
