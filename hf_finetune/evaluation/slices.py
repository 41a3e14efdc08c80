"""The figures of parts of a split: the images of each camera, hospital or year."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from hf_finetune.evaluation.intervals import Interval, wilson_interval
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.evaluation.report import aligned, format_interval, shortened

_MOST_VALUES = 50  # of a column that have a line
_WIDE = 0.2  # of an interval: twenty points


class SliceFigures(TypedDict):
    """The images with one value of a column.

    `accuracy` is a part of 1 with its 95 % score interval. `too_few` says that the interval is wider than 20 points;
    `below` that the interval of the images is below the accuracy of all images.
    """

    value: str
    images: int
    correct: int
    accuracy: float
    interval: Interval
    too_few: bool
    below: bool


def slice_groups(values: Sequence[str], fewest: int = 1) -> list[tuple[str, NDArray[np.int64]]]:
    """Return each value with the places of its images, int64, the value of the most images first.

    Args:
        values: The value of each image.
        fewest: Values of fewer images, and those beyond the first 50, are one group, the last.
    """
    names, numbers = np.unique(np.asarray(values, dtype=object), return_inverse=True)
    images = np.bincount(numbers, minlength=len(names))
    places = np.split(np.argsort(numbers, kind="stable"), np.cumsum(images)[:-1])
    order = np.argsort(-images, kind="stable")
    shown = min(_MOST_VALUES, int(np.sum(images >= fewest)))
    groups = [(str(names[number]), places[number]) for number in order[:shown]]
    if rest := [places[number] for number in order[shown:]]:
        noun = "value" if len(rest) == 1 else "values"
        groups.append((f"({len(rest):,} other {noun})", np.concatenate(rest)))
    return groups


def slice_figures(values: Sequence[str], correct: NDArray[np.bool_]) -> list[SliceFigures]:
    """Return the figures of each value, those of the most images first; of more than 50 values, the rest are one.

    Args:
        values: The value of each image.
        correct: Whether its prediction is the label, bool (images,).
    """
    overall = float(np.mean(correct))
    return [_figures(value, len(places), int(correct[places].sum()), overall) for value, places in slice_groups(values)]


def slice_lines(slices: Mapping[str, Sequence[SliceFigures]]) -> list[str]:
    """Return the figures of slices as a table for each column, in lines of plain text."""
    lines: list[str] = []
    for column, rows in slices.items():
        cells = [
            [
                shortened(row["value"]),
                as_percent(row["accuracy"]),
                format_interval(row["interval"]),
                f"{row['images']:,}",
                remark_of(row),
            ]
            for row in rows
        ]
        lines += ["", *aligned([[shortened(column), "accuracy", "95 % interval", "images", ""], *cells])]
    return lines


def remark_of(row: SliceFigures) -> str:
    """Return what stands out in the figures of a slice, or ""."""
    return "below all images" if row["below"] else "too few images" if row["too_few"] else ""


def _figures(value: str, images: int, correct: int, overall: float) -> SliceFigures:
    low, high = wilson_interval(correct, images)
    return {
        "value": value,
        "images": images,
        "correct": correct,
        "accuracy": correct / images,
        "interval": (low, high),
        "too_few": high - low > _WIDE,
        "below": high < overall,
    }
