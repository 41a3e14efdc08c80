"""The confusion matrix and the training curve as PNG files.

Only matplotlib's object-oriented interface is used: no pyplot, no window, no state that outlives a call.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import MaxNLocator, PercentFormatter

CONFUSION_MATRIX_FILE = "confusion_matrix.png"
TRAINING_CURVE_FILE = "training_curve.png"

_MOST_NUMBERED = 20  # classes up to which every cell holds its number of images
_MOST_NAMED = 60  # classes up to which every row and column has its name
_NAME_LENGTH = 24  # characters
_TRAIN, _HELD_OUT, _RATE = "#8a97a8", "#b5367a", "#3b528b"
_GREY = "#666666"

# Tried in this order for characters that DejaVu Sans lacks; those not installed are left out.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei",
          "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS")  # fmt: skip


def plot_confusion_matrix(matrix: np.ndarray, label_names: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draws a confusion matrix into the PNG file `path`.

    `matrix` is int64 (classes, classes), rows are labels and columns predictions, as `confusion_matrix` returns it.
    Colours are shares of each row on a square-root scale, so that a confusion of 1 % is seen beside 95 % that are
    right; a cell without images is white. Cells hold numbers of images up to 20 classes; beyond 60 classes the
    axes count class ids.
    """
    classes = len(label_names)
    images = matrix.sum()
    shares = np.ma.masked_equal(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1), 0)
    side = float(np.interp(classes, [2, 10, _MOST_NUMBERED, _MOST_NAMED], [3.6, 6.0, 9.0, 10.5]))  # inches
    with _style():
        figure = Figure(figsize=(side + 2.6, side + 2.2), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="magma_r", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        axes.set_title(
            f"Confusion matrix: {images:,} images, {100 * np.trace(matrix) / max(1, images):.2f} % right", pad=12
        )
        axes.set_xlabel("predicted class" if classes <= _MOST_NAMED else "predicted class id")
        axes.set_ylabel("label" if classes <= _MOST_NAMED else "class id of the label")
        if classes <= _MOST_NAMED:
            _name_classes(axes, label_names)
        if classes <= _MOST_NUMBERED:
            _number_cells(axes, matrix, shares)
        axes.spines[:].set_color("#cccccc")
        # An inset of the matrix's own height; a colour bar beside it would take the height of the figure.
        bar = figure.colorbar(image, cax=axes.inset_axes((1 + 0.15 / side, 0, 0.2 / side, 1)))
        bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1], labels=["0", "1", "5", "10", "25", "50", "75", "100 %"])
        bar.set_label("share of the label's images")
        bar.outline.set_visible(False)
        # One class of a thousand is narrower than a pixel of the usual size.
        _save(figure, path, dots_per_inch=200 if classes > 300 else 120)


def plot_training_curve(
    log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], split_label: str = "validation"
) -> None:
    """Draws loss, accuracy and learning rate over epochs into the PNG file `path`.

    `log_history` is the Trainer's: entries with "epoch" and "loss", "learning_rate", "eval_loss" or "eval_accuracy";
    others, and values that are not finite, are passed over. `split_label` is what the evaluated split is called. A run
    that never evaluated has no accuracy panel; a single value is drawn as a point.
    """
    accuracy = _series(log_history, "eval_accuracy")
    heights = [3, 3, 1.8] if accuracy else [3, 1.8]
    with _style():
        figure = Figure(figsize=(8, 1.2 + sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        loss_axes, rate_axes = panels[0], panels[-1]
        loss_axes.set_title("Training curve", pad=12)
        _draw(loss_axes, _series(log_history, "loss"), _TRAIN, "train")
        _draw(loss_axes, _series(log_history, "eval_loss"), _HELD_OUT, split_label)
        loss_axes.set_ylabel("loss (nats)")
        if loss_axes.lines:
            loss_axes.legend(frameon=False)
        if accuracy:
            _draw(panels[1], accuracy, _HELD_OUT, split_label)
            epoch, highest = max(accuracy, key=lambda point: point[1])
            panels[1].plot(epoch, highest, "o", color=_HELD_OUT, markersize=8)
            note = f"{split_label}, highest {100 * highest:.2f} % at epoch {epoch:g}"
            panels[1].set_title(note, loc="left", fontsize="small", color=_HELD_OUT, parse_math=False)
            panels[1].set_ylabel("accuracy")
            panels[1].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        rates = [point for point in _series(log_history, "learning_rate") if point[1] > 0]
        if rates:
            _draw(rate_axes, rates, _RATE, "learning rate")
            # Whole decades, at least one, so that every schedule has labelled ticks; rounded, because 0.01 * 0.1 * 0.1
            # is a little more than 1e-4.
            exponents = [round(math.log10(rate), 6) for _, rate in rates]
            low, high = math.floor(min(exponents)), math.ceil(max(exponents))
            rate_axes.set_yscale("log")
            rate_axes.set_ylim(10.0 ** (low - 0.2), 10.0 ** (max(high, low + 1) + 0.2))
        rate_axes.set_ylabel("learning rate")
        rate_axes.set_xlabel("epoch")
        rate_axes.set_xlim(left=0)
        rate_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in panels:
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        figure.align_ylabels(panels)
        _save(figure, path, dots_per_inch=120)


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Returns the (epoch, value) points of a key, without those that are missing or not finite."""
    points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]
    return [point for point in points if point[1] is not None and math.isfinite(point[1])]


def _draw(axes: Axes, points: Sequence[tuple[float, float]], color: str, label: str) -> None:
    if points:
        marker = "o" if len(points) <= 40 else None
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, color=color, marker=marker, markersize=3.5, linewidth=1.6, label=label)


def _name_classes(axes: Axes, label_names: Sequence[str]) -> None:
    size = float(np.interp(len(label_names), [20, _MOST_NAMED], [10, 6.5]))
    names = [name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…" for name in label_names]
    places = range(len(names))
    axes.set_yticks(places, names, fontsize=size, parse_math=False)
    longest = max(map(len, names))
    slanted = {} if longest * len(names) <= 45 else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    if len(names) > _MOST_NUMBERED:
        slanted = {"rotation": 90}
    axes.set_xticks(places, names, fontsize=size, parse_math=False, **slanted)
    axes.tick_params(length=0)


def _number_cells(axes: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    size = float(np.interp(len(matrix), [2, 10, _MOST_NUMBERED], [12, 10, 8]))
    for row, column in np.argwhere(matrix):
        color = "white" if shares[row, column] > 0.2 else "black"
        axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", color=color, fontsize=size)


@contextmanager
def _style() -> Iterator[None]:
    installed = {font.name for font in fontManager.ttflist}
    settings = {
        "font.family": [name for name in _FONTS if name in installed] or ["sans-serif"],
        "axes.edgecolor": _GREY,
        "axes.labelcolor": "#333333",
        "axes.titlesize": 12,
        "xtick.color": _GREY,
        "xtick.labelcolor": "#333333",
        "ytick.color": _GREY,
        "ytick.labelcolor": "#333333",
    }
    # Default settings first: a matplotlibrc of the user's must not make the images illegible.
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": matplotlib.rcParams["backend"], **settings}):
        yield


def _save(figure: Figure, path: str | os.PathLike[str], dots_per_inch: int) -> None:
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A machine without Chinese fonts draws boxes; a warning a character would bury the run's own lines.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format="png", dpi=dots_per_inch, facecolor="white", bbox_inches="tight", pad_inches=0.15)
