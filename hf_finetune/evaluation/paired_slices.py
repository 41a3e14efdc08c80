"""Two models on parts of the same images: those of each camera, hospital or year."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.evaluation.paired import PairedCounts, mcnemar
from hf_finetune.evaluation.report import aligned, shortened
from hf_finetune.evaluation.slices import slice_groups

_FEWEST = 6  # images of a value: with fewer, no p-value of McNemar's exact test is below 0.05


class PairedSlice(TypedDict):
    """The images with one value of a column.

    `first` and `second` are the shares of images on which each model is correct, parts of 1; `only_first` and
    `only_second` are the numbers of those on which one alone is; `p_value` is that of McNemar's test.
    """

    value: str
    images: int
    first: float
    second: float
    only_first: int
    only_second: int
    p_value: float


def paired_slices(values: Sequence[str], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> list[PairedSlice]:
    """Return the figures of each value, the one of the most images first.

    Values of fewer than six images, and those beyond the first 50, are one row, the last.

    Args:
        values: The value of each image.
        first: Whether the first model is correct on each image, bool (images,).
        second: Likewise the second.
    """
    rows: list[PairedSlice] = []
    for value, places in slice_groups(values, _FEWEST):
        counts = PairedCounts.of(first[places], second[places])
        rows.append(
            {
                "value": value,
                "images": counts.images,
                "first": counts.shares[0],
                "second": counts.shares[1],
                "only_first": counts.only_first,
                "only_second": counts.only_second,
                "p_value": mcnemar(counts)[0],
            }
        )
    return rows


def paired_slice_lines(slices: Mapping[str, Sequence[PairedSlice]]) -> list[str]:
    """Return the figures of slices as a table for each column, in lines of plain text."""
    lines: list[str] = []
    for column, rows in slices.items():
        cells = [
            [
                shortened(row["value"]),
                as_percent(row["first"]),
                as_percent(row["second"]),
                f"{row['only_first']:,}",
                f"{row['only_second']:,}",
                f"{row['p_value']:.2g}",
                f"{row['images']:,}",
            ]
            for row in rows
        ]
        lines += ["", *aligned([[shortened(column), "A", "B", "only A", "only B", "p", "images"], *cells])]
    return lines
