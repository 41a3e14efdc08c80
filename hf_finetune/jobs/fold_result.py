"""The figures of cross-validation: of each fold, their mean, of all held-out images, and of the ensemble."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_finetune.config.run_files import METRICS_FILE
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.metrics import METRICS, Metric, as_percent
from hf_finetune.evaluation.multi_label import given_classes
from hf_finetune.evaluation.report import describe_split, format_report, interval_keys, write_metrics
from hf_finetune.jobs.held_out import HeldOut, joined, mean_of
from hf_finetune.reports.answers import separator_of, written
from hf_finetune.shown_text import csv_cell
from hf_finetune.tasks import DEFAULT_THRESHOLD, counted

TABLE_FILE = "out_of_fold.csv"


@dataclass(frozen=True, repr=False)
class KFoldResult:
    """The figures of cross-validation, parts of 1 but for the loss (nats) and `samples`.

    Attributes:
        folds: Of each fold, the figures of its model on its images, which that model has not been trained on.
        mean: The mean of each figure over the folds.
        mean_intervals: Their 95 % intervals (`mean_interval`).
        metrics: The figures of all these images together, each predicted by the model that has not seen it.
        intervals: The 95 % intervals of those that have one, by their names.
        test: The figures of the ensemble on the test split; empty without one.
        test_intervals: Their intervals.
        out_of_fold: The answers that `metrics` counts; its `rows` are those of the source's train split.
        label_names: The classes by class id.
        output_dir: The folder of the folds, which is that of the ensemble.
        thresholds: The probability from which on each class is given, where images have several labels: the one that
            gives all held-out images the highest F1. All figures are at these, and the ensemble has them. Else None.
        registry: The metrics by name.
    """

    folds: list[dict[str, float]]
    mean: dict[str, float]
    mean_intervals: dict[str, Interval]
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    test: dict[str, float]
    test_intervals: dict[str, Interval]
    out_of_fold: HeldOut
    label_names: list[str]
    output_dir: Path
    thresholds: list[float] | None = None
    registry: Mapping[str, Metric] = field(default_factory=lambda: METRICS)

    @classmethod
    def of_folds(
        cls,
        answers: Sequence[Mapping[str, HeldOut]],
        label_names: list[str],
        output_dir: Path,
        registry: Mapping[str, Metric] = METRICS,
    ) -> KFoldResult:
        """Return the result of folds that are complete.

        Args:
            answers: Of the model of each fold, what it answers for "validation" and, where there is one, "test".
            label_names: The classes by class id.
            output_dir: The folder of the folds.
            registry: The metrics by name.
        """
        out_of_fold = joined([answer["validation"] for answer in answers])
        thresholds = out_of_fold.thresholds() if out_of_fold.task.several else None
        computed = (label_names, registry, DEFAULT_THRESHOLD if thresholds is None else thresholds)
        folds = [answer["validation"].figures(*computed)[0] for answer in answers]
        shares = {name for name, metric in registry.items() if metric.format is as_percent}
        mean, mean_intervals = {}, {}
        for name in folds[0].keys() - {"samples"}:
            values = [figures[name] for figures in folds]
            mean[name] = float(np.mean(values))
            mean_intervals[name] = mean_interval(values, clip=name in shares)
        metrics, intervals = out_of_fold.figures(*computed)
        test: dict[str, float] = {}
        test_intervals: dict[str, Interval] = {}
        if "test" in answers[0]:
            test, test_intervals = mean_of([answer["test"] for answer in answers]).figures(*computed)
        return cls(
            folds,
            mean,
            mean_intervals,
            metrics,
            intervals,
            test,
            test_intervals,
            out_of_fold,
            label_names,
            output_dir,
            thresholds,
            registry,
        )

    def __repr__(self) -> str:
        """Return one line: the mean accuracy, or mAP, and where the folds are."""
        chosen = self.out_of_fold.task.chosen_by
        low, high = self.mean_intervals[chosen]
        return (
            f"KFoldResult of {len(self.folds)} folds in {self.output_dir}: mean {chosen}"
            f" {as_percent(self.mean[chosen])} (95 % interval {100 * low:.1f}-{100 * high:.1f})"
        )

    def table(self) -> str:
        """Return the figures as a table for people."""
        figures, intervals = {}, {}
        for number, values in enumerate(self.folds, 1):
            figures[describe_split(f"fold {number}", int(values["samples"]))] = values
        mean = f"mean of {len(self.folds)} folds"
        figures[mean] = self.mean
        intervals[mean] = {
            name: interval
            for name, interval in self.mean_intervals.items()
            if self.registry[name].format is as_percent and self.registry[name].interval is not None
        }
        pooled = describe_split("out of fold", int(self.metrics["samples"]))
        figures[pooled], intervals[pooled] = self.metrics, self.intervals
        if self.test:
            ensemble = describe_split("ensemble on test", int(self.test["samples"]))
            figures[ensemble], intervals[ensemble] = self.test, self.test_intervals
        return format_report(figures, metrics=self.registry, intervals=intervals)

    def as_mapping(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        return {
            "folds": self.folds,
            "mean": {**self.mean, **interval_keys(self.mean_intervals)},
            "out_of_fold": {**self.metrics, **interval_keys(self.intervals)},
            "ensemble": {"test": {**self.test, **interval_keys(self.test_intervals)}} if self.test else {},
            "label_names": self.label_names,
            **({} if self.thresholds is None else {"thresholds": self.thresholds}),
        }

    def save(self, name_of_row: Callable[[int], str], fold_of_row: Mapping[int, int]) -> None:
        """Write the figures and the table of predictions into the folder.

        Args:
            name_of_row: Returns what the image in a row of train is called.
            fold_of_row: The fold that each row is held out in, from 1.
        """
        answers, names = self.out_of_fold, self.label_names
        file = self.output_dir / TABLE_FILE
        unfinished = file.with_name(f".{file.name}.unfinished")
        with open(unfinished, "w", encoding="utf-8", errors="backslashreplace", newline="") as opened:
            writer = csv.writer(opened, lineterminator="\n")
            several, whole = self.thresholds is not None, [f"p_{name}" for name in names]
            answered = ["labels", "predictions"] if several else ["label", "prediction", "score"]
            writer.writerow(map(csv_cell, ["row", "image", "fold", *answered, *whole]))
            known = counted(answers.labels)  # others could not be read
            for row, *answer, probabilities in zip(
                answers.rows[known], *self._answers(known), answers.probabilities[known], strict=True
            ):
                shares = [f"{share:.6g}" for share in probabilities]
                writer.writerow(map(csv_cell, [row, name_of_row(int(row)), fold_of_row[int(row)], *answer, *shares]))
        unfinished.replace(file)
        write_metrics(self.output_dir / METRICS_FILE, self.as_mapping())

    def _answers(self, known: NDArray[np.bool_]) -> list[list[str]]:
        """Return the columns of labels and predictions, and of scores where an image has one, of the `known` images."""
        names, labels = self.label_names, self.out_of_fold.labels[known]
        probabilities = self.out_of_fold.probabilities[known]
        if self.thresholds is not None:
            given = given_classes(self.out_of_fold.logits[known], self.thresholds)
            separator = separator_of(names)
            return [[written(row, names, separator) for row in rows] for rows in (labels, given)]
        best = probabilities.argmax(axis=1)
        scores = [f"{share:.6g}" for share in probabilities.max(axis=1)]
        return [[names[label] for label in labels], [names[label] for label in best], scores]


def mean_interval(values: Sequence[float], clip: bool) -> Interval:
    """Return the 95 % interval of a mean over folds, by Student's t with one degree of freedom less than folds.

    The models of the folds share training images, so their figures depend on each other, and the interval is rather
    too narrow (Bengio and Grandvalet 2004, "No unbiased estimator of the variance of k-fold cross-validation").

    Args:
        values: The figure of each fold, two at least.
        clip: Whether the figure is a part of 1, which its interval does not leave.
    """
    from scipy.special import stdtrit  # imports for a moment, and only folds need it

    mean = float(np.mean(values))
    reach = float(stdtrit(len(values) - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    low, high = mean - reach, mean + reach
    return (max(low, 0.0), min(high, 1.0)) if clip else (low, high)
