"""Precision and recall of each class over all thresholds, as a PNG file."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hf_finetune.evaluation.drawing import GREY, drawing, save, set_title
from hf_finetune.evaluation.fonts import cannot_draw
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.evaluation.multi_label import LabelSetPredictions, mean_average_precision, precision_recall

_MOST_NAMED = 10  # classes that have a colour: all, or those with the lowest average precision
_NAME_LENGTH = 24  # characters
_COLOURS = (
    "#3b528b", "#b5367a", "#1f9e89", "#e8743b", "#6a4c93", "#7a9a01", "#c0392b", "#2e86c1", "#a0793d", "#34495e",
)  # fmt: skip


def plot_precision_recall(
    predictions: LabelSetPredictions,
    label_names: Sequence[str],
    path: str | os.PathLike[str],
    title: str = "",
    split: str = "",
) -> None:
    """Draw a curve for each class into a PNG file, and a dot where its threshold is.

    Beyond 10 classes, the 10 with the lowest average precision have a colour and a name, and all others are grey.

    Args:
        predictions: Those of a split.
        label_names: Class names by class id. One with a character that no installed font has is called by its id.
        path: The PNG file.
        title: What was trained on what, such as "resnet50 on my_images".
        split: Name of the split.
    """
    figures = predictions.average_precisions
    present = np.flatnonzero(predictions.support)
    named = present if len(present) <= _MOST_NAMED else np.sort(present[np.argsort(figures[present])[:_MOST_NAMED]])
    with drawing(path, "".join([title, *(label_names[class_id] for class_id in named)])) as missing:
        figure = Figure(figsize=(8.4, 6.4), layout="constrained")
        axes = figure.add_subplot()
        colours = dict(zip(named.tolist(), _COLOURS, strict=False))
        for class_id in sorted(present.tolist(), key=lambda class_id: class_id in colours):
            scores = predictions.logits[:, class_id]
            _, precision, recall = precision_recall(scores, predictions.has_label[:, class_id])
            name = label_names[class_id]
            name = f"class {class_id}" if cannot_draw(name, missing) else name
            name = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
            colour = colours.get(class_id)
            axes.step(
                np.concatenate([[0], recall]),
                np.concatenate([precision[:1], precision]),
                where="pre",
                color=colour or "#d5d5d5",
                linewidth=1.6 if colour else 0.8,
                label=f"{name.replace('$', '')} {as_percent(figures[class_id])}" if colour else None,
            )
            given = int(predictions.predicted[class_id])
            if colour and given:
                correct = int(predictions.correct[class_id])
                axes.plot(correct / predictions.support[class_id], correct / given, "o", color=colour, markersize=6)
        counted = f"{len(predictions.logits):,} {split} images".replace("  ", " ")
        mean = as_percent(mean_average_precision(predictions))
        set_title(axes, title or "Precision and recall", f"mAP {mean} on {counted}; dots: at the thresholds")
        axes.set_xlabel("recall: share of the images with the class that are given it")
        axes.set_ylabel("precision: share of the images given the class that have it")
        axes.set_xlim(0, 1.01)
        axes.set_ylim(0, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, 0, " %"))
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if colours:
            heading = "average precision" if len(named) == len(present) else "lowest average precision"
            legend = axes.legend(frameon=False, title=heading, loc="center left", bbox_to_anchor=(1.01, 0.5))
            legend.get_title().set_color(GREY)
        save(figure, path, dots_per_inch=120)
