"""The figures as people read them, and as programs do.

A figure always stands beside the split it is from: a split that chose the checkpoint flatters it.
"""

from __future__ import annotations

import json
import math
import os
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FIGURE_NAMES = {
    "accuracy": "accuracy",
    "top5_accuracy": "top-5",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced",
    "loss": "loss",
}
"""The figures of `ClassificationMetrics` in the order of every table, with their headings."""

_SPLIT_WIDTH = 32  # with all five figures a line of the table has at most 80 columns
_NAME_WIDTH = 40


def describe_split(name: str, samples: int, chose_checkpoint: bool = False) -> str:
    """Returns what a figure's split is, such as "validation (5,000 images), which also chose the checkpoint"."""
    images = f"{samples:,} image" + ("" if samples == 1 else "s")
    return f"{name} ({images})" + (", which also chose the checkpoint" if chose_checkpoint else "")


def format_figure(name: str, value: float) -> str:
    """Returns a figure as tables show it: "87.21 %" for a part of 1, "0.4012" for the loss (nats), "-" for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if name == "loss" else f"{100 * value:.2f} %"


def worst_classes(per_class: Sequence[Mapping[str, Any]], limit: int) -> tuple[list[Mapping[str, Any]], str]:
    """Returns the rows of `per_class_figures` that a table of `limit` rows shows, and the line that says which.

    All of them, by class id, where they fit; otherwise the ones with the lowest F1, worst first. Classes without an
    image in the split have no F1 and are never among the worst.
    """
    if len(per_class) <= limit:
        return list(per_class), f"All {len(per_class)} classes"
    present = sorted((row for row in per_class if row["support"] > 0), key=lambda row: row["f1"])
    caption = f"The {min(limit, len(present))} of {len(per_class)} classes with the lowest F1"
    absent = len(per_class) - len(present)
    return present[:limit], caption + (f" (without an image in this split: {absent})" if absent else "")


def class_cells(row: Mapping[str, Any]) -> list[str]:
    """Returns precision, recall, F1 and images of a row of `per_class_figures`, as tables show them."""
    figures = [format_figure(name, row[name]) if row["support"] else "-" for name in ("precision", "recall", "f1")]
    return [*figures, f"{row['support']:,}"]


def format_report(
    figures: Mapping[str, Mapping[str, float]], per_class: Sequence[Mapping[str, Any]] = (), per_class_split: str = ""
) -> str:
    """Returns the final table as plain text of about 80 columns, without a newline at its end.

    `figures` maps the description of each split (`describe_split`) to what `ClassificationMetrics` returned for it.
    `per_class` is what `per_class_figures` returned for the split that `per_class_split` describes; at most 20 classes
    are shown, the worst ones where there are more.
    """
    shown = [name for name in FIGURE_NAMES if any(name in values for values in figures.values())]
    rows = [["split", *(FIGURE_NAMES[name] for name in shown)]]
    for description, values in figures.items():
        first, *rest = textwrap.wrap(description, _SPLIT_WIDTH)
        rows.append([first, *(format_figure(name, values.get(name, math.nan)) for name in shown)])
        rows.extend([line, *[""] * len(shown)] for line in rest)
    lines = _align(rows)
    if per_class:
        worst, caption = worst_classes(per_class, limit=20)
        heading = f"{caption}, {per_class_split}:" if per_class_split else f"{caption}:"
        lines += ["", *textwrap.wrap(heading, 80)]
        names = [_shorten(row["name"]) for row in worst]
        cells = [[name, *class_cells(row)] for name, row in zip(names, worst, strict=True)]
        lines += _align([["class", "precision", "recall", "F1", "images"], *cells])
    return "\n".join(lines)


def write_metrics(path: str | os.PathLike[str], mapping: Mapping[str, Any]) -> None:
    """Writes `mapping` as JSON (`to_json`); the file is whole at any moment, old or new."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(to_json(mapping), encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def to_json(mapping: Mapping[str, Any]) -> str:
    """Returns `mapping` as JSON text with sorted keys.

    Numpy scalars and arrays become numbers and lists. NaN and infinity, which JSON does not have, become null.
    """
    return json.dumps(_jsonable(mapping), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _jsonable(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _columns(character: str) -> int:
    # Chinese, Japanese and Korean characters take two columns of a terminal, combining ones none.
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _width(text: str) -> int:
    return sum(map(_columns, text))


def _shorten(name: str) -> str:
    name = " ".join(name.split())
    if _width(name) <= _NAME_WIDTH:
        return name
    kept = ""
    for character in name:
        if _width(kept + character) > _NAME_WIDTH - 3:
            break
        kept += character
    return kept + "..."


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pads the columns to their widest cell: the first to the left, the others to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first + " " * (widths[0] - _width(first))]
        cells += [" " * (width - _width(cell)) + cell for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
