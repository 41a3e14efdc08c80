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


def slice_figures(values: Sequence[str], correct: NDArray[np.bool_]) -> list[SliceFigures]:
    """Return the figures of each value, those of the most images first; of more than 50 values, the rest are one.

    Args:
        values: The value of each image.
        correct: Whether its prediction is the label, bool (images,).
    """
    names, places = np.unique(np.asarray(values, dtype=object), return_inverse=True)
    images = np.bincount(places, minlength=len(names))
    hits = np.bincount(places, correct, minlength=len(names)).astype(np.int64)
    order = np.argsort(-images, kind="stable")
    rows = [(str(names[place]), int(images[place]), int(hits[place])) for place in order[:_MOST_VALUES]]
    if len(rest := order[_MOST_VALUES:]):
        rows.append((f"({len(rest):,} other values)", int(images[rest].sum()), int(hits[rest].sum())))
    overall = float(np.mean(correct))
    return [_figures(*row, overall) for row in rows]


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
