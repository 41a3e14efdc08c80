"""Mean and standard deviation of the channels of a dataset, which an image processor normalizes by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.recipe import Recipe
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.decoding import Decoding
from hf_finetune.data.images.value_range import choose_range
from hf_finetune.data.moments import measure
from hf_finetune.data.sources.objects import GivenDataset
from hf_finetune.data.splits import split_role
from hf_finetune.errors import UserError
from hf_finetune.evaluation.report import to_json
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.logs import get_logger, write_result
from hf_finetune.training.channels import rounded
from hf_finetune.training.wiring import load_data

logger = get_logger(__name__)

IMAGES = 10_000
_CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True)
class DatasetStats:
    """Mean and standard deviation of the pixels of a split, as they are before anything is resized.

    Attributes:
        dataset: What messages call the dataset.
        split: The split, in words.
        images: How many images count.
        of: How many the split has.
        unreadable: How many of the sample could not be read.
        mean: Of red, green and blue, parts of 1; of images that are read as they are stored, of each channel, in the
            units of the files.
        std: Likewise.
        value_range: The values that became 0 and 1 in images of more than 8 bits; None without such images.
        image_channels: How many channels the images have that are read as they are stored; None for RGB.
    """

    dataset: str
    split: str
    images: int
    of: int
    unreadable: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float] | None = None
    image_channels: int | None = None

    @property
    def image_mean(self) -> list[float]:
        """The recipe's key: the mean on the scale of 0 to 255, or in the units of the files."""
        return self._as_key(self.mean)

    @property
    def image_std(self) -> list[float]:
        """The recipe's key: the standard deviation, likewise."""
        return self._as_key(self.std)

    def _as_key(self, values: tuple[float, ...]) -> list[float]:
        return [round(255 * value, 3) for value in values] if self.image_channels is None else rounded(values)

    def as_mapping(self) -> dict[str, Any]:
        """Return all of it, with the keys of a recipe, for a JSON file."""
        return {**vars(self), "image_mean": self.image_mean, "image_std": self.image_std}

    def text(self) -> str:
        """Return what the command prints."""
        left_out = f"; {self.unreadable:,} more cannot be read" if self.unreadable else ""
        lines = [f"{self.dataset}, {self.split}: {self.images:,} of {self.of:,} images{left_out}.", ""]
        lines += self._table()
        lines += ["", "In a recipe:", ""]
        lines += [] if self.image_channels is None else [f"image_channels: {self.image_channels}"]
        lines += [f"image_mean: {self.image_mean}", f"image_std: {self.image_std}"]
        if self.value_range is not None:
            lines.append(f"value_range: {[*self.value_range]}")
        return "\n".join(lines)

    def _table(self) -> list[str]:
        if self.image_channels is None:
            rows = [("", "mean", "std")]
            for channel, mean, std in zip(_CHANNELS, self.mean, self.std, strict=True):
                rows.append((channel, f"{mean:.4f}", f"{std:.4f}"))
            return [f"{name:<7}{mean:>8}{std:>8}" for name, mean, std in rows]
        rows = [("channel", "mean", "std")]
        for number, (mean, std) in enumerate(zip(self.mean, self.std, strict=True), start=1):
            rows.append((str(number), f"{mean:.6g}", f"{std:.6g}"))
        return [f"{name:<7}{mean:>13}{std:>13}" for name, mean, std in rows]


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
    channels = data.channels
    moments = measure(found, images, args.seed, Decoding(value_range=value_range, channels=channels))
    unreadable, count = moments.unreadable, moments.images + moments.unreadable
    scale = 255 if channels is None else 1
    mean, std = (tuple(value / scale for value in values) for values in (moments.mean, moments.std))
    if not moments.images:
        raise UserError(f"{data.source}: none of {count:,} images of {role} can be read.")
    if unreadable:
        logger.warning(f"{unreadable:,} of {count:,} images cannot be read and do not count.")
    name = without_private_text(data.source, Path.cwd())
    used = value_range if data.wide_values is not None else None
    stats = DatasetStats(name, data.split_names[role], moments.images, of, unreadable, mean, std, used, channels)
    if show is not None:
        write_result(to_json(stats.as_mapping()).rstrip("\n") if show == "json" else stats.text())
    return stats


def _choose_role(data: ImageDataset, split: str | None) -> str:
    if split is None:
        return next(iter(data.splits))
    return data.existing_role(split_role(split) or "test", split)
