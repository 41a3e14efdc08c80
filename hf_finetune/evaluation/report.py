"""The figures of a run as text for people, and as JSON for programs.

A figure always stands beside the split that it is from. The figures of a split that chose the checkpoint are better
than what new images will give, so the table says which split did.
"""

from __future__ import annotations

import csv
import json
import math
import os
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hf_finetune.errors import UserError
from hf_finetune.evaluation.analysis import ClassFigures, LabelFigures
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metrics import METRICS, Metric, as_percent
from hf_finetune.shown_text import csv_cell
from hf_finetune.whole_files import written_whole

_LINE_WIDTH, _SPLIT_WIDTH = 80, 32  # columns of a line, and the most of them for the split
_WIDE = 0.1  # of an interval: ten points
_NAME_WIDTH = 40  # columns
_MOST_WORST, _MOST_BEST = 20, 5  # classes in the final table


def describe_split(name: str, samples: int, chose_checkpoint: bool = False) -> str:
    """Return what figures are from, such as "validation (5,000 images), which also chose the checkpoint"."""
    images = f"{samples:,} image" + ("" if samples == 1 else "s")
    return f"{name} ({images})" + (", which also chose the checkpoint" if chose_checkpoint else "")


def shown_metrics(figures: Sequence[Mapping[str, float]], metrics: Mapping[str, Metric] = METRICS) -> dict[str, Metric]:
    """Return the metrics that at least one of the splits' `figures` has, in the order of `metrics`."""
    return {name: metric for name, metric in metrics.items() if any(name in values for values in figures)}


def format_figures(values: Mapping[str, float], metrics: Mapping[str, Metric]) -> list[str]:
    """Return the texts of a split's figures in the order of `metrics`; "-" for NaN and for a missing one."""
    return [metric.format(values.get(name, math.nan)) for name, metric in metrics.items()]


def format_interval(interval: Interval) -> str:
    """Return an interval as percent, such as "87.1-88.4"."""
    low, high = (f"{100 * limit:.1f}".replace("100.0", "100") for limit in interval)
    return f"{low}-{high}"


def interval_keys(intervals: Mapping[str, Interval]) -> dict[str, list[float]]:
    """Return intervals as JSON has them beside the figures: `accuracy_interval: [0.8710, 0.8839]`."""
    return {f"{name}_interval": list(interval) for name, interval in intervals.items()}


def format_log_figures(
    values: Mapping[str, float], metrics: Mapping[str, Metric] = METRICS, prefix: str = "eval_"
) -> str:
    """Return the figures of an evaluation as the log shows them: "loss 0.4012  accuracy 87.21%".

    Args:
        values: An entry of the Trainer's log; its figures have names such as "eval_accuracy".
        metrics: The metrics of the run. Those with `in_log` are shown: the loss, then the others in their order.
        prefix: What precedes the names of metrics in `values`.
    """
    names = sorted((name for name in metrics if metrics[name].in_log), key=lambda name: name != "loss")
    shown = [name for name in names if f"{prefix}{name}" in values]
    return "  ".join(
        f"{metrics[name].title} {metrics[name].format(values[f'{prefix}{name}']).replace(' %', '%')}" for name in shown
    )


def worst_classes(per_class: Sequence[ClassFigures], limit: int) -> tuple[list[ClassFigures], str]:
    """Choose the classes that a table of `limit` rows shows.

    Args:
        per_class: What `per_class_figures` returned.
        limit: The largest number of rows.

    Returns:
        The rows, and a caption that says which they are. Where all classes fit, they are in the order of class ids.
        Otherwise those with the lowest F1 are shown, the worst first; a class without an image has no F1 and is
        left out.
    """
    if len(per_class) <= limit:
        return list(per_class), f"All {len(per_class)} classes"
    present = sorted((row for row in per_class if row["support"] > 0), key=lambda row: row["f1"])
    caption = f"The {min(limit, len(present))} of {len(per_class)} classes with the lowest F1"
    absent = len(per_class) - len(present)
    return present[:limit], caption + (f" (without an image in this split: {absent})" if absent else "")


def best_classes(per_class: Sequence[ClassFigures], shown: int, limit: int) -> tuple[list[ClassFigures], str]:
    """Choose the classes of a second table, where `worst_classes` does not show all that have an image.

    Args:
        per_class: What `per_class_figures` returned.
        shown: The `limit` that `worst_classes` was given.
        limit: The largest number of rows of this table.

    Returns:
        The rows, those with the highest F1, the best first, none of which `worst_classes` chose; and a caption that
        says how many classes neither table shows. Without rows where there are no such classes.
    """
    present = sorted((row for row in per_class if row["support"] > 0), key=lambda row: row["f1"])
    if len(per_class) <= shown or len(present) <= shown:
        return [], ""
    best = present[max(shown, len(present) - limit) :][::-1]
    hidden = len(present) - shown - len(best)
    return (
        best,
        f"The {len(best)} of {len(per_class)} classes with the highest F1 (not shown: {hidden})",
    )


def class_heading(rows: Sequence[ClassFigures]) -> list[str]:
    """Return the headings of a table of classes; those of several labels have two columns more."""
    more = ["AP", "threshold"] if any("average_precision" in row for row in rows) else []
    return ["class", *more, "precision", "recall", "F1", "images"]


def class_cells(row: ClassFigures) -> list[str]:
    """Return precision, recall, F1 and number of images of a class, as tables show them; see `class_heading`."""
    more = []
    if "average_precision" in row:
        own = cast(LabelFigures, row)
        more = [as_percent(own["average_precision"]), f"{own['threshold']:.2f}"]
    cells = [as_percent(row["precision"]), as_percent(row["recall"]), as_percent(row["f1"]), f"{row['support']:,}"]
    return more + cells


def format_report(
    figures: Mapping[str, Mapping[str, float]],
    per_class: Sequence[ClassFigures] = (),
    per_class_split: str = "",
    metrics: Mapping[str, Metric] = METRICS,
    intervals: Mapping[str, Mapping[str, Interval]] | None = None,
) -> str:
    """Return the final table as plain text of about 80 columns, without a newline at its end.

    Args:
        figures: By the description of each split (`describe_split`), what `ClassificationMetrics` returned for it.
        per_class: What `per_class_figures` returned for one split. Of more than 20 classes, the 5 best and the 20
            worst are shown.
        per_class_split: The description of that split.
        metrics: The metrics of the run: a column each.
        intervals: By the description of a split, the intervals of its figures: a row below them, and a note where the
            accuracy's is wide.
    """
    shown = shown_metrics(list(figures.values()), metrics)
    intervals = intervals or {}
    heading = ["split", *(metric.heading for metric in shown.values())]
    cells = {description: format_figures(values, shown) for description, values in figures.items()}
    limits = {
        description: [format_interval(of_split[name]) if name in of_split else "" for name in shown]
        for description, of_split in intervals.items()
    }
    columns = zip(*(map(_width, row) for row in (heading[1:], *cells.values(), *limits.values())), strict=True)
    width = min(_SPLIT_WIDTH, max(20, _LINE_WIDTH - sum(2 + max(column) for column in columns)))
    rows = [heading]
    for description in figures:
        first, *rest = textwrap.wrap(description, width)
        rows.append([first, *cells[description]])
        rows.extend([line, *[""] * len(shown)] for line in rest)
        if description in limits:
            rows.append(["  95 % interval", *limits[description]])
    lines = aligned(rows)
    for description, of_split in intervals.items():
        lines += _wide_note(description, of_split)
    if per_class:
        for rows_of, caption in (
            best_classes(per_class, _MOST_WORST, _MOST_BEST),
            worst_classes(per_class, _MOST_WORST),
        ):
            lines += _class_lines(rows_of, f"{caption}, {per_class_split}" if per_class_split else caption)
    return "\n".join(lines)


def _wide_note(description: str, intervals: Mapping[str, Interval]) -> list[str]:
    low, high = intervals.get("accuracy", (0.0, 0.0))
    if high - low <= _WIDE:
        return []
    split = description.partition(")")[0] + ")" * (")" in description)
    return textwrap.wrap(
        f"Note: so few images leave the accuracy open between {100 * low:.1f} % and {100 * high:.1f} %, {split}; a"
        " smaller difference between two models may be chance.",
        _LINE_WIDTH,
    )


def _class_lines(rows: Sequence[ClassFigures], heading: str) -> list[str]:
    if not rows:
        return []
    cells = [[shortened(row["name"]), *class_cells(row)] for row in rows]
    return [
        "",
        *textwrap.wrap(f"{heading}:", _LINE_WIDTH),
        *aligned([class_heading(rows), *cells]),
    ]


def save_confusion_matrix(
    matrix: NDArray[np.int64], label_names: Sequence[str], path: str | os.PathLike[str], title: str = ""
) -> None:
    """Save a confusion matrix as a PNG image or a CSV table, by the suffix of `path`.

    Args:
        matrix: Numbers of images, int64 (classes, classes); rows are labels, columns predictions.
        label_names: Class names by class id.
        path: A file name that ends in .png or .csv. In the CSV file the first row has the names of the predicted
            classes, and the first column those of the labels.
        title: What the image is of, such as "resnet50 on cifar10, test split".

    Raises:
        UserError: If the name ends otherwise.
    """
    path = Path(path)
    if path.suffix.lower() == ".png":
        from hf_finetune.evaluation.plots import plot_confusion_matrix  # matplotlib, only where it is needed

        plot_confusion_matrix(matrix, label_names, path, title)
    elif path.suffix.lower() == ".csv":
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            names = [csv_cell(name) for name in label_names]
            writer.writerow(["label", *names])
            writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    else:
        raise UserError(f"{path}: a confusion matrix is saved as .png or .csv; use {path.with_suffix('.png')}.")


def write_metrics(path: str | os.PathLike[str], mapping: Mapping[str, Any]) -> None:
    """Write `mapping` as JSON (`to_json`). The file is replaced in one step, so a reader never sees a part of it."""
    with written_whole(Path(path)) as unfinished:
        unfinished.write_text(to_json(mapping), encoding="utf-8", errors="backslashreplace")


def to_json(mapping: Mapping[str, Any]) -> str:
    """Return `mapping` as JSON text with sorted keys.

    NumPy scalars and arrays become numbers and lists. NaN and infinity, which JSON does not have, become null.
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
    # Chinese, Japanese and Korean characters take two columns of a terminal, combining characters take none.
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _width(text: str) -> int:
    return sum(map(_columns, text))


def shortened(name: str) -> str:
    """Return a name as a table shows it: on one line of at most 40 columns."""
    name = " ".join(name.split())
    if _width(name) <= _NAME_WIDTH:
        return name
    kept = ""
    for character in name:
        if _width(kept + character) > _NAME_WIDTH - 3:
            break
        kept += character
    return kept + "..."


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad the columns to their widest cell. The first column is aligned to the left, the others to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first + " " * (widths[0] - _width(first))]
        cells += [" " * (width - _width(cell)) + cell for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines
