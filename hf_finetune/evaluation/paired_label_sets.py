"""Two models on the same images with several labels: mAP and F1 of both, and how sure their differences are."""

from __future__ import annotations

from typing import TypedDict

from hf_finetune.evaluation.intervals import Interval, shifted_percentiles
from hf_finetune.evaluation.multi_label import MULTI_LABEL_METRICS, LabelSetPredictions

_RESAMPLED = ("mAP", "micro_f1", "macro_f1")  # the figures of `LabelSetPredictions.resampled`


class PairedFigure(TypedDict):
    """A metric of both models with its 95 % intervals, parts of 1. A difference is the second's less the first's."""

    first: float
    first_interval: Interval
    second: float
    second_interval: Interval
    difference: float
    difference_interval: Interval


def paired_figures(first: LabelSetPredictions, second: LabelSetPredictions) -> dict[str, PairedFigure]:
    """Return mAP, micro F1 and macro F1 of both models on the same images, by name.

    The interval of a difference is that of the paired bootstrap (Efron 1979; Koehn 2004, "Statistical significance
    tests for machine translation evaluation", draws the examples for two systems together): images are drawn again,
    with replacement and a fixed seed, both figures are computed on each draw, and the interval has 95 % of their
    differences. It is moved for the reason that `intervals.interval_around` gives.

    Args:
        first: The answers of the first model.
        second: Those of the second for the same images in the same order. Its classes may have another order.
    """
    figures: dict[str, PairedFigure] = {}
    for name, drawn, other in zip(_RESAMPLED, first.resampled, second.resampled, strict=True):
        metric = MULTI_LABEL_METRICS[name]
        assert metric.interval is not None
        figure, figure_2 = metric.compute(first), metric.compute(second)
        number = min(len(drawn), len(other))  # both have the same draws, and more classes have fewer of them
        difference = figure_2 - figure
        figures[name] = {
            "first": figure,
            "first_interval": metric.interval(first),
            "second": figure_2,
            "second_interval": metric.interval(second),
            "difference": difference,
            "difference_interval": shifted_percentiles(difference, other[:number] - drawn[:number]),
        }
    return figures
