"""The plot of a search for settings."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hf_finetune.evaluation.drawing import drawing, save

_TRIAL, _BEST, _BAR = "#8a97a8", "#b5367a", "#3b528b"  # the colours of the other plots
SEARCH_FILE = "importances.png"
_DOTS_PER_INCH = 150


def plot_search(
    figures: Sequence[tuple[int, float]],
    importances: Mapping[str, float],
    metric: str,
    best: int,
    path: str | os.PathLike[str],
) -> None:
    """Draw how much each key matters, and the figure of each trial with the best so far, into a PNG file.

    Args:
        figures: Of each complete trial, its number and its figure.
        importances: By key, the part of the figures' variance that it explains; the largest first.
        metric: What the figure is.
        best: The number of the best trial.
        path: The PNG file.
    """
    with drawing(path, "".join([metric, *importances])):
        figure = Figure(figsize=(10, max(3.4, 1.4 + 0.45 * len(importances))), layout="constrained")
        left, right = figure.subplots(1, 2)
        names, shares = list(importances), list(importances.values())
        left.barh(names, shares, color=_BAR, height=0.6)
        left.invert_yaxis()
        for place, share in enumerate(shares):
            left.text(share, place, f" {share:.0%}", va="center", fontsize=9)
        left.set_xlim(0, max([*shares, 0.01]) * 1.18)
        left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        left.set_title("Part of the variance that a key explains", pad=12)
        left.spines[["top", "right"]].set_visible(False)

        numbers, values = [number for number, _ in figures], [value for _, value in figures]
        best_value = dict(figures)[best]
        choose = max if best_value == max(values) else min
        right.scatter(numbers, values, s=18, color=_TRIAL, label="trial")
        right.step(numbers, list(itertools.accumulate(values, choose)), where="post", color=_BEST, label="best so far")
        right.scatter([best], [best_value], s=46, color=_BEST, zorder=3)
        right.set_xlabel("trial")
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.set_ylabel(f"{metric} on validation")
        right.set_title(f"Best: trial {best}, {metric} {best_value:.4f}", pad=12)
        right.legend(frameon=False)
        right.spines[["top", "right"]].set_visible(False)
        save(figure, path, _DOTS_PER_INCH)
