"""Which values the images of more than 8 bits have, and the one range by which all of them are scaled.

An image alone does not show its range: a dark one of 12 bits may hold no value above 1000. So many are read, and the
range of values that a sensor or a program gives is taken, where it is clear.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.data.columns import RowsOf
from hf_finetune.data.images.decoding import ImageValue, OpenImage, UnreadableImage
from hf_finetune.data.images.levels import ValueRange, is_wide
from hf_finetune.errors import UserError
from hf_finetune.pieces import in_pieces

_SAMPLE = 1000  # images that are read
_OVERSHOOT = 0.05  # of a range from 0 to 1 or 255 in floating point, which filters leave behind
_FEW_LEVELS = 64  # of 256: so few grey levels deserve a word


@dataclass(frozen=True)
class FoundValues:
    """The values of images of more than 8 bits.

    Attributes:
        low: The lowest finite value.
        high: The highest finite value.
        whole: Whether all of them are whole numbers.
        kinds: What the images are: "16 bits", "32 bits", "floating point".
        images: The number of images.
    """

    low: float
    high: float
    whole: bool
    kinds: frozenset[str]
    images: int

    def __str__(self) -> str:
        images = "1 image" if self.images == 1 else f"{self.images:,} images"
        return f"images of {' and '.join(sorted(self.kinds))}: values {self.low:g} to {self.high:g} found in {images}"


def find_values(dataset: Dataset, rows: Sequence[int], seed: int) -> FoundValues | None:
    """Read a sample of images, and return the values of those that have more than 8 bits.

    Args:
        dataset: A split, with the column `image`.
        rows: The rows that may be such images.
        seed: Draws the sample.

    Returns:
        None where no image of the sample has more than 8 bits, or none of these can be read.
    """
    images = RowsOf(dataset, "image")
    sample = np.asarray(rows, np.int64)
    if len(sample) > _SAMPLE:
        sample = np.sort(np.random.default_rng(seed).choice(sample, _SAMPLE, replace=False))

    def read(some: npt.NDArray[np.int64]) -> FoundValues | None:
        return values_of(image or {} for image in images.read(some))

    return _join(found for _, found in in_pieces(read, sample))


def values_of(images: Iterable[ImageValue]) -> FoundValues | None:
    """Return the values of those images that have more than 8 bits; None where there are none."""
    return _join(map(_read, images))


def _read(value: ImageValue) -> FoundValues | None:
    try:
        with OpenImage(value) as image:
            if not is_wide(image.mode):
                return None
            pixels = image.values()
    except UnreadableImage:  # stops the run, or is left out, when its turn comes
        return None
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        return None
    kind = {"F": "floating point", "I": "32 bits"}.get(image.mode, "16 bits")
    return FoundValues(
        float(finite.min()), float(finite.max()), bool((finite == np.round(finite)).all()), frozenset([kind]), 1
    )


def _join(parts: Iterable[FoundValues | None]) -> FoundValues | None:
    found = [part for part in parts if part is not None]
    if not found:
        return None
    return FoundValues(
        min(part.low for part in found),
        max(part.high for part in found),
        all(part.whole for part in found),
        frozenset().union(*(part.kinds for part in found)),
        sum(part.images for part in found),
    )


def choose_range(found: FoundValues | None, stated: ValueRange | None, source: str) -> tuple[ValueRange | None, str]:
    """Return the range by which images of more than 8 bits are scaled, and a sentence on it.

    Args:
        found: Their values; None where there are no such images.
        stated: The range of the recipe or of the model; None to take that of the values.
        source: What messages call the dataset.

    Returns:
        None and "" where it does not matter.

    Raises:
        UserError: No range is stated, and the values do not show theirs.
    """
    if found is None:
        return stated, ""
    value_range = stated or _natural_range(found)
    if value_range is None:
        why = "some are negative" if found.low < 0 else "no common range fits them"
        raise UserError(
            f"{source}: {found}, and {why}; use --value_range LOW HIGH, such as --value_range {found.low:g}"
            f" {found.high:g}: what becomes black and white."
        )
    low, high = value_range
    note = f"Note: {found}; they are scaled as --value_range {low:g} {high:g}"
    if found.low < low or found.high > high:
        note += ", and values outside are clipped"
    levels = 256 * (min(found.high, high) - max(found.low, low)) / (high - low)
    if levels < _FEW_LEVELS:
        note += f", and fill {max(1, round(levels))} of the 256 levels that 8 bits have"
    return value_range, f"{note}."


def _natural_range(found: FoundValues) -> ValueRange | None:
    """Return the range of a sensor or a program that values are of; None where it is not clear."""
    if len(found.kinds) > 1 and "floating point" in found.kinds:
        return None
    if found.whole and found.low >= 0 and found.high > 1:
        return next(((0, high) for high in (255, 4095, 65535) if found.high <= high), None)
    if "floating point" not in found.kinds:
        return None
    for high in (1, 255):
        excess = _OVERSHOOT * high
        # Values far below 255 may as well be degrees or percent.
        if -excess <= found.low and found.high <= high + excess and (high == 1 or found.high > high / 2):
            return (0, high)
    return None
