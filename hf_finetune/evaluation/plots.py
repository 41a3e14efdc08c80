"""Plots as PNG files: confusion matrix, reliability diagram, training curve, search for a learning rate.

A plot that cannot be drawn is left out and the log says why (`drawing`).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from hf_finetune.errors import listing
from hf_finetune.evaluation.analysis import Confusions
from hf_finetune.evaluation.calibration import ReliabilityBin
from hf_finetune.evaluation.drawing import GREY, drawing, save, set_title
from hf_finetune.evaluation.fonts import cannot_draw
from hf_finetune.evaluation.intervals import wilson
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

_MOST_NUMBERED = 20  # classes up to which each cell shows its number of images
_MOST_NAMED = 60  # classes up to which each row and column shows its name
_MOST_CELLS = 500  # classes up to which each has a row and a column of its own
_NAME_LENGTH = 24  # characters
_TRAIN, _HELD_OUT, _RATE = "#8a97a8", "#b5367a", "#3b528b"

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_Points = list[tuple[float, float]]


def plot_confusion_matrix(
    matrix: NDArray[np.int64] | Confusions,
    label_names: Sequence[str],
    path: str | os.PathLike[str],
    title: str = "",
    split: str = "",
) -> None:
    """Draw a confusion matrix into a PNG file.

    Colours are shares of each row on a square-root scale, so that a confusion of 1 % is visible beside an accuracy of
    95 %. A cell without images is white. Cells show numbers of images up to 20 classes. Beyond 60 classes the axes
    show class ids instead of names. Beyond 500 classes neighbouring class ids share a cell, and the title says how
    many.

    Args:
        matrix: Numbers of images, int64 (classes, classes); rows are labels and columns predictions. Or its cells that
            are not zero.
        label_names: Class names by class id. A name with a character that no installed font has is replaced by
            "class 3", and the log says so.
        path: The PNG file.
        title: What was trained on what, such as "resnet50 on cifar10".
        split: Name of the split that the matrix is of.
    """
    classes = len(label_names)
    named = classes <= _MOST_NAMED
    with drawing(path, "".join([title, *label_names]) if named else title) as missing:
        confusions = matrix if isinstance(matrix, Confusions) else Confusions.of_matrix(matrix)
        per_cell = math.ceil(classes / _MOST_CELLS)
        counts = confusions.matrix(per_cell)
        shares = np.ma.masked_equal(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), 0)
        side = float(np.interp(classes, [2, 10, _MOST_NUMBERED, _MOST_NAMED], [3.6, 6.0, 9.0, 10.5]))  # inches
        figure = Figure(figsize=(side + 2.6, side + 2.4), layout="constrained")
        axes = figure.add_subplot()
        edge = len(counts) * per_cell - 0.5  # the axes count class ids, also where several share a cell
        image = axes.imshow(
            shares,
            cmap="magma_r",
            norm=PowerNorm(0.5, 0, 1),
            interpolation="nearest",
            extent=(-0.5, edge, edge, -0.5),
        )
        set_title(
            axes,
            title or "Confusion matrix",
            _accuracy_of(confusions, split),
            f"each cell is {per_cell} x {per_cell} classes" if per_cell > 1 else "",
            width=int(9 * side + 9),
        )
        axes.set_xlabel("predicted class" if named else "predicted class id")
        axes.set_ylabel("label" if named else "class id of the label")
        if named:
            _name_classes(axes, _drawable_names(label_names, missing))
        if classes <= _MOST_NUMBERED:
            _number_cells(axes, counts, shares)
        axes.spines[:].set_color("#cccccc")
        # An inset of the matrix's own height; a colour bar beside it would take the height of the figure.
        bar = figure.colorbar(image, cax=axes.inset_axes((1 + 0.15 / side, 0, 0.2 / side, 1)))
        bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1], labels=["0", "1", "5", "10", "25", "50", "75", "100 %"])
        bar.set_label("share of the label's images" if per_cell == 1 else "share of the images of the labels")
        bar.outline.set_visible(False)
        # One class of a thousand is narrower than a pixel at 120 dots per inch.
        save(figure, path, dots_per_inch=200 if classes > 300 else 120)


def _accuracy_of(confusions: Confusions, split: str) -> str:
    images = int(confusions.images.sum())
    accuracy = as_percent(confusions.correct / images if images else math.nan)
    counted = f"{images:,} {split} image".replace("  ", " ") + ("" if images == 1 else "s")
    return f"accuracy {accuracy} on {counted}"


def plot_reliability(
    bins: Sequence[ReliabilityBin],
    path: str | os.PathLike[str],
    title: str = "",
    split: str = "",
) -> None:
    """Draw a reliability diagram into a PNG file: the accuracy of the images of each score, and how many they are.

    A bar that ends below the diagonal has scores that are too high. The accuracy of few images is a rough figure, so
    each bar has its 95 % interval.

    Args:
        bins: What `evaluation.calibration.reliability` returned.
        path: The PNG file.
        title: What was trained on what, such as "resnet50 on cifar10".
        split: Name of the split that the scores are of.
    """
    with drawing(path, title):
        figure = Figure(figsize=(6.4, 6.8), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        images = np.array([row["images"] for row in bins])
        accuracies, scores = (np.array([row[name] for row in bins]) for name in ("accuracy", "confidence"))
        left = [row["low"] for row in bins]
        width = bins[0]["high"] - bins[0]["low"]
        low, high = wilson(np.round(accuracies * images), images)
        middles = [row["low"] + width / 2 for row in bins]
        upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="score = accuracy")
        upper.bar(left, accuracies, width, align="edge", color=_RATE, edgecolor="white", label="accuracy")
        upper.vlines(middles, low, high, color=_TRAIN, linewidth=1.6, label="95 % interval")
        error = float(np.sum(images * np.abs(accuracies - scores)) / images.sum())
        counted = f"{images.sum():,} {split} images".replace("  ", " ")
        set_title(upper, title or "Reliability diagram", f"calibration error {as_percent(error)} on {counted}")
        upper.set_ylabel("accuracy")
        upper.set_ylim(0, 1.02)
        upper.legend(frameon=False, loc="upper left")
        lower.bar(left, images / images.sum(), width, align="edge", color=_TRAIN, edgecolor="white")
        lower.set_ylabel("share of images")
        lower.set_xlabel("score: probability of the predicted class")
        lower.set_xlim(0, 1)
        for axes in (upper, lower):
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, 0, " %"))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0, " %"))
            axes.spines[["top", "right"]].set_visible(False)
        save(figure, path, dots_per_inch=120, aligned=(upper, lower))


def plot_training_curve(
    log_history: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    split_label: str = "validation",
    title: str = "",
    stepwise_rate: bool = False,
) -> None:
    """Draw loss, accuracy and learning rate over epochs into a PNG file.

    A run that never evaluated has no accuracy panel. A single value is drawn as a point. Values that are not finite
    are left out.

    Args:
        log_history: The Trainer's: entries with "epoch" and "loss", "learning_rate", "eval_loss", "eval_accuracy" or
            "eval_mAP". Others are ignored.
        path: The PNG file.
        split_label: Name of the evaluated split.
        title: What was trained on what, such as "resnet50 on cifar10".
        stepwise_rate: Whether the schedule lowers the learning rate in steps (multistep), which are then drawn as
            steps instead of slopes.
    """
    with drawing(path, title):
        metric = next((name for name in ("accuracy", "mAP") if _series(log_history, f"eval_{name}")), "accuracy")
        accuracy = _series(log_history, f"eval_{metric}")
        heights = [3, 3, 1.8] if accuracy else [3, 1.8]
        figure = Figure(figsize=(8, 1.2 + sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        set_title(panels[0], title or "Training curve", width=70)
        _draw_losses(panels[0], log_history, split_label)
        if accuracy:
            _draw_accuracy(panels[1], accuracy, split_label, metric)
        _draw_rate(panels[-1], _series(log_history, "learning_rate"), stepwise_rate)
        panels[-1].set_xlabel("epoch")
        panels[-1].set_xlim(left=0)
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in panels:
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        save(figure, path, dots_per_inch=120, aligned=panels)


def plot_rate_search(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    path: str | os.PathLike[str],
    suggestion: float | None = None,
    current: float | None = None,
) -> None:
    """Draw the loss over a rising learning rate into a PNG file.

    Args:
        rates: The learning rate of each step, ascending.
        losses: The loss of each step in nats, finite.
        smoothed: Their moving average.
        path: The PNG file.
        suggestion: The rate that is suggested, if one is.
        current: The rate that the recipe has.
    """
    with drawing(path, ""):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(rates, losses, "o", color=_TRAIN, markersize=3, alpha=0.6, label="each step")
        axes.plot(rates, smoothed, color=_RATE, linewidth=1.8, label="moving average")
        if suggestion is not None:
            axes.axvline(suggestion, color=_HELD_OUT, linewidth=1.6, label=f"suggested: {suggestion:.2g}")
        if current is not None and rates and rates[0] <= current <= rates[-1]:
            axes.axvline(current, color=GREY, linewidth=1.2, linestyle="--", label=f"the recipe's: {current:g}")
        axes.set_xscale("log")
        if smoothed:  # the last steps diverge, and would flatten all else
            low, first = min(*smoothed, *losses), max(losses[: max(1, len(losses) // 2)])
            axes.set_ylim(max(0, low - 0.1 * first), 1.5 * first)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss (nats)")
        set_title(axes, "Loss over a rising learning rate")
        axes.legend(frameon=False)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        save(figure, path, dots_per_inch=120)


def _draw_losses(axes: Axes, log_history: Sequence[Mapping[str, Any]], split_label: str) -> None:
    _draw(axes, _series(log_history, "loss"), _TRAIN, "train")
    _draw(axes, _series(log_history, "eval_loss"), _HELD_OUT, split_label)
    axes.set_ylabel("loss (nats)")
    if axes.lines:
        axes.legend(frameon=False)


def _draw_accuracy(axes: Axes, accuracy: _Points, split_label: str, metric: str) -> None:
    _draw(axes, accuracy, _HELD_OUT, split_label)
    epoch, highest = max(accuracy, key=lambda point: point[1])
    axes.plot(epoch, highest, "o", color=_HELD_OUT, markersize=8)
    note = f"{split_label}, highest {as_percent(highest)} at epoch {epoch:g}"
    axes.set_title(note, loc="left", fontsize="small", color=_HELD_OUT, y=1, parse_math=False)
    axes.set_ylabel(metric)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def _draw_rate(axes: Axes, points: _Points, stepwise: bool) -> None:
    rates = [point for point in points if point[1] > 0]  # the scale is logarithmic
    if rates:
        _draw(axes, rates, _RATE, "learning rate")
        if stepwise:
            axes.lines[0].set_data(*zip(*_with_corners(rates), strict=True))
        # Whole decades, at least one, so that each schedule has labelled ticks. They are rounded because
        # 0.01 * 0.1 * 0.1 is a little more than 1e-4.
        exponents = [round(math.log10(rate), 6) for _, rate in rates]
        low, high = math.floor(min(exponents)), math.ceil(max(exponents))
        axes.set_yscale("log")
        axes.set_ylim(10.0 ** (low - 0.2), 10.0 ** (max(high, low + 1) + 0.2))
        axes.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("learning rate")


def _power_of_ten(value: float, _: int | None = None) -> str:
    """Return a label such as "10⁻³". Matplotlib's own is a formula, and reading its first one takes 0.2 s."""
    return "10" + str(round(math.log10(value))).translate(_RAISED)


def _with_corners(points: _Points) -> _Points:
    """Return the points with a corner before each fall: the rate is held until it falls. A warm-up keeps its slope."""
    corners = points[:1]
    for (_, before), (epoch, rate) in itertools.pairwise(points):
        if rate < before:
            corners.append((epoch, before))
        corners.append((epoch, rate))
    return corners


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> _Points:
    """Return the (epoch, value) points of a key, without those that are missing or not finite."""
    points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]
    return [point for point in points if point[1] is not None and math.isfinite(point[1])]


def _draw(axes: Axes, points: _Points, color: str, label: str) -> None:
    if points:
        marker = "o" if len(points) <= 40 else None
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, color=color, marker=marker, markersize=3.5, linewidth=1.6, label=label)


def _drawable_names(names: Sequence[str], missing: set[str]) -> list[str]:
    """Return the names, but "class 3" for those with a character that no installed font has, and log which."""
    replaced = [name for name in names if cannot_draw(name, missing)]
    if replaced:
        logger.warning(
            f"Note: no installed font can draw {len(replaced):,} of the class names ({listing(replaced)}), so the"
            " confusion matrix shows their class ids; install a font that has the characters, such as Noto Sans CJK for"
            " Chinese, Japanese and Korean."
        )
    return [f"class {class_id}" if cannot_draw(name, missing) else name for class_id, name in enumerate(names)]


def _name_classes(axes: Axes, label_names: Sequence[str]) -> None:
    size = float(np.interp(len(label_names), [20, _MOST_NAMED], [10, 6.5]))
    names = [name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…" for name in label_names]
    places = range(len(names))
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    longest = max(map(len, names))
    if len(names) > _MOST_NUMBERED:
        axes.set_xticks(places, names, fontsize=size, parse_math=False, rotation=90)
    elif longest * len(names) > 45:
        axes.set_xticks(places, names, fontsize=size, parse_math=False, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(places, names, fontsize=size, parse_math=False)
    axes.tick_params(length=0)


def _number_cells(axes: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    size = float(np.interp(len(matrix), [2, 10, _MOST_NUMBERED], [12, 10, 8]))
    for row, column in np.argwhere(matrix):
        color = "white" if shares[row, column] > 0.2 else "black"
        cell = axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", color=color, fontsize=size)
        cell.set_in_layout(False)  # it is within the axes
