"""The plot of what changes over the steps of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from hf_finetune.evaluation.drawing import GREY, drawing, save, set_title

_COLOURS = ("#3b528b", "#b5367a", "#2a7a4b", "#b3541e", "#7a4bb0", "#8a97a8")  # and of more lines, a range of colours
_NAMED = 12  # lines in a legend
_POINTS = 4_000  # of a line, which has no more pixels

Line = tuple[str, NDArray[np.float64]]


def plot_schedule(
    points: NDArray[np.float64],
    panels: Sequence[tuple[str, Sequence[Line]]],
    titles: Sequence[str],
    path: str | os.PathLike[str],
    steps_per_epoch: int | None = None,
    head_alone_until: float = 0,
) -> None:
    """Draw panels below each other into a PNG file, which share the axis of steps.

    Args:
        points: Steps, or shares of a time from 0 to 1, float64 (points,).
        panels: The name of each panel, and its lines with their names; values are float64 (points,), NaN for none.
        titles: What is drawn, in lines.
        path: The PNG file.
        steps_per_epoch: For an axis of epochs above; None where points are shares.
        head_alone_until: The step until which the head alone is trained.
    """
    with drawing(path, "".join([*titles, *(name for _, lines in panels for name, _ in lines)])):
        heights = [3.2, *(1.2 for _ in panels[1:])]
        figure = Figure(figsize=(8, 1.6 + sum(heights)), layout="constrained")
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, lines) in zip(rows, panels, strict=True):
            _panel(axes, name, points, lines, steps_per_epoch is not None)
            if head_alone_until:
                label = "head alone" if axes is rows[0] else None
                axes.axvspan(points[0], head_alone_until, color="#f0e6c8", zorder=0, label=label)
        if head_alone_until or len(panels[0][1]) > 1:
            rows[0].legend(frameon=False, fontsize=8)
        if steps_per_epoch is None:
            rows[-1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            rows[-1].set_xlabel("share of the time for training")
        else:
            rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
            rows[-1].set_xlabel("optimizer step")
            epochs = rows[0].secondary_xaxis(
                "top", functions=(lambda step: (step - 1) / steps_per_epoch, lambda epoch: epoch * steps_per_epoch + 1)
            )
            epochs.set_xlabel("epoch", color=GREY)
        set_title(rows[0], *titles)
        save(figure, path, dots_per_inch=120)


def _panel(axes: Axes, name: str, points: NDArray[np.float64], lines: Sequence[Line], are_steps: bool) -> None:
    kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), _POINTS)).round().astype(np.int64))
    for number, (line, values) in enumerate(lines):
        many = len(lines) > len(_COLOURS)
        colour = colormaps["viridis"](0.95 * number / len(lines)) if many else _COLOURS[number]
        marker = "o" if len(points) == 1 else None
        named = len(lines) <= _NAMED or number in (0, len(lines) - 1)
        label = line if named else None
        style = "steps-post" if are_steps else "default"
        axes.plot(points[kept], values[kept], color=colour, linewidth=1.8, label=label, marker=marker, drawstyle=style)
    axes.set_ylabel(name)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
