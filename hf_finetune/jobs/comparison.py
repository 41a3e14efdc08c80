"""What a comparison of two models gives: the figures, and the table and the files that show them."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_finetune.evaluation.intervals import Interval, wilson_interval
from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.evaluation.multi_label import MULTI_LABEL_METRICS
from hf_finetune.evaluation.paired import PairedCounts, difference_interval, mcnemar
from hf_finetune.evaluation.paired_label_sets import PairedFigure
from hf_finetune.evaluation.paired_slices import PairedSlice, paired_slice_lines
from hf_finetune.evaluation.report import aligned, format_interval, shortened, write_metrics
from hf_finetune.jobs.evaluation_result import EvaluationResult, check_output
from hf_finetune.jobs.paired_results import ClassDifference, Disagreement, PairedResults
from hf_finetune.shown_text import csv_cell

_MOST_CLASSES = 10  # in the table
_CHANCE = 0.05  # p-value from which a difference may be chance
_LINE_WIDTH = 80


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two models on the same images. A difference is the second's figure less the first's.

    Where images have several labels, a model is correct on an image where it gives all of its labels and no other, at
    its own thresholds. Its accuracy is the share of these images, the exact match.

    Attributes:
        models: What the models are called.
        split: What they were evaluated on, such as "test".
        results: The evaluations of both, image by image.
        notes: Sentences on the images.
    """

    models: tuple[str, str]
    split: str
    results: PairedResults = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> EvaluationResult:
        """The evaluation of the first model."""
        return self.results.first

    @property
    def second(self) -> EvaluationResult:
        """The evaluation of the second model."""
        return self.results.second

    @cached_property
    def counts(self) -> PairedCounts:
        """How many images both, one and neither of the models classify correctly."""
        return self.results.counts()

    @property
    def accuracies(self) -> tuple[float, float]:
        """The accuracy of each, a part of 1."""
        return self.counts.shares

    @property
    def intervals(self) -> tuple[Interval, Interval]:
        """The 95 % score interval of each accuracy."""
        counts = self.counts
        return (
            wilson_interval(counts.both + counts.only_first, counts.images),
            wilson_interval(counts.both + counts.only_second, counts.images),
        )

    @property
    def difference(self) -> float:
        """The second accuracy less the first, a part of 1."""
        return (self.counts.only_second - self.counts.only_first) / self.counts.images

    @property
    def difference_interval(self) -> Interval:
        """The 95 % interval of the difference (`evaluation.paired`)."""
        return difference_interval(self.counts)

    @property
    def p_value(self) -> float:
        """McNemar's p-value: how likely a difference as large is between models that are equally accurate."""
        return mcnemar(self.counts)[0]

    @property
    def figures(self) -> dict[str, PairedFigure]:
        """mAP, micro F1 and macro F1 of both (`evaluation.paired_label_sets`); nothing with one label an image."""
        return self.results.figures

    def __repr__(self) -> str:
        """Return one line with both accuracies, the difference and the p-value."""
        first, second = map(as_percent, self.accuracies)
        return (
            f"Comparison on {self.counts.images:,} images of {self.split}: {self._title} {first} and {second},"
            f" difference {_points(self.difference)} ({_range_of_points(self.difference_interval)}),"
            f" p = {self.p_value:.2g}"
        )

    def per_class(self) -> list[ClassDifference]:
        """Return the recall of each class under both, the largest difference first; without classes with no image.

        Where images have several labels, it is the F1 of each class.
        """
        return sorted(self.results.per_class(), key=lambda row: -abs(row["difference"]))

    def disagreements(self) -> Iterator[Disagreement]:
        """Yield the images that only one of the models classifies correctly, in the split's order."""
        return self.results.disagreements()

    def slices(self) -> dict[str, list[PairedSlice]]:
        """Return the figures of the values of each column of `slice_columns`."""
        return self.results.slices()

    def as_mapping(self) -> dict[str, Any]:
        """Return what `--json` prints: all but the images on which the models differ."""
        p_value, test = mcnemar(self.counts)
        several, slices = self.results.several, self.slices()
        return {
            "split": self.split,
            "images": self.counts.images,
            "first": self._model_mapping(0),
            "second": self._model_mapping(1),
            "difference": self.difference,
            "difference_interval": list(self.difference_interval),
            "mcnemar": {"p_value": p_value, "test": test},
            "correct": {name: getattr(self.counts, name) for name in ("both", "only_first", "only_second", "neither")},
            **({"figures": self.figures} if several else {}),
            "per_class": self.per_class(),
            **({"slices": slices} if slices else {}),
            "notes": list(self.notes),
        }

    def report(self) -> str:
        """Return the tables that the command prints."""
        counts, (p_value, test) = self.counts, mcnemar(self.counts)
        several = self.results.several
        verdict = "may be chance" if p_value >= _CHANCE else "is more than chance gives"
        whose = " of exact match" if several else ""
        sentences = [
            f"{counts.images:,} images, {self.split}: both are correct on {counts.both:,}, neither on"
            f" {counts.neither:,}, only A on {counts.only_first:,}, only B on {counts.only_second:,}.",
            f"The difference{whose} {verdict} (McNemar's test, {test}: p = {p_value:.2g}).",
            *self.notes,
        ]
        if several:
            sentences.insert(1, "Correct means all labels of the image and no other, at each model's own thresholds.")
        lines = self._figure_lines() if several else self._accuracy_lines()
        lines += ["", *(line for text in sentences for line in textwrap.wrap(text, _LINE_WIDTH))]
        classes = [row for row in self.per_class() if row["difference"]][:_MOST_CLASSES]
        if classes:
            cells = [
                [shortened(row["name"]), as_percent(row["first"]), as_percent(row["second"]),
                 _points(row["difference"]), f"{row['images']:,}"]
                for row in classes
            ]  # fmt: skip
            lines += ["", f"{'F1' if several else 'Recall'} of the classes with the largest differences:"]
            lines += aligned([["class", "A", "B", "B - A, points", "images"], *cells])
        return "\n".join([*lines, *self._slice_lines()])

    def save(self, path: Path) -> None:
        """Write the images that only one of the models classifies correctly.

        Args:
            path: A CSV file of these images, or a JSON file of all figures and these images.

        Raises:
            UserError: For a name that ends otherwise.
        """
        check_output(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            write_metrics(path, {**self.as_mapping(), "disagreements": list(self.disagreements())})
            return
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Disagreement.__annotations__)
            writer.writerows([csv_cell(cell) for cell in row.values()] for row in self.disagreements())

    @property
    def _title(self) -> str:
        return "exact match" if self.results.several else "accuracy"

    def _model_mapping(self, number: int) -> dict[str, Any]:
        name = self._title.replace(" ", "_")
        accuracy, interval = self.accuracies[number], self.intervals[number]
        return {"model": self.models[number], name: accuracy, f"{name}_interval": list(interval)}

    def _accuracy_lines(self) -> list[str]:
        """Return the accuracies of both models and their difference as a table."""
        rows = [["model", "accuracy", "95 % interval"]]
        for letter, name, accuracy, interval in zip("AB", self.models, self.accuracies, self.intervals, strict=True):
            rows.append([f"{letter}  {shortened(name)}", as_percent(accuracy), format_interval(interval)])
        rows.append(["B - A, points", _points(self.difference), _range_of_points(self.difference_interval)])
        return aligned(rows)

    def _figure_lines(self) -> list[str]:
        """Return the figures of several labels as a table, one in a line."""
        differences = {self._title: (*self.accuracies, self.difference, self.difference_interval)} | {
            MULTI_LABEL_METRICS[name].title: (
                figure["first"], figure["second"], figure["difference"], figure["difference_interval"]
            )
            for name, figure in self.figures.items()
        }  # fmt: skip
        cells = [
            [title, as_percent(first), as_percent(second), _points(difference), _range_of_points(interval)]
            for title, (first, second, difference, interval) in differences.items()
        ]
        return [
            *(f"{letter}  {shortened(name)}" for letter, name in zip("AB", self.models, strict=True)),
            "",
            *aligned([["figure", "A", "B", "B - A, points", "95 % interval"], *cells]),
        ]

    def _slice_lines(self) -> list[str]:
        lines = paired_slice_lines(self.slices())
        if lines:
            note = (
                f"A and B: {self._title}. Each p (McNemar's test) is of one value alone: among twenty, one is below"
                " 0.05 by chance."
            )
            lines += ["", *textwrap.wrap(note, _LINE_WIDTH)]
        return lines


def _points(difference: float) -> str:
    return "-" if math.isnan(difference) else f"{100 * difference:+.2f}"


def _range_of_points(interval: Interval) -> str:
    return f"{_points(interval[0])} to {_points(interval[1])}"
