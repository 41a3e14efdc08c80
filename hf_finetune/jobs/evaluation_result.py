"""What an evaluation gives: the figures, each image's prediction, and the files that show them."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_finetune.config.run_files import CONFUSION_MATRIX_FILE, PRECISION_RECALL_FILE
from hf_finetune.errors import UserError
from hf_finetune.evaluation.analysis import ClassFigures, Confusions, per_class_figures
from hf_finetune.evaluation.calibration import ReliabilityBin, reliability
from hf_finetune.evaluation.intervals import Interval
from hf_finetune.evaluation.multi_label import LabelSetPredictions, label_figures
from hf_finetune.evaluation.report import interval_keys, write_metrics
from hf_finetune.evaluation.slices import SliceFigures
from hf_finetune.shown_text import csv_cell

_MOST_IN_MATRIX = 1_000  # classes whose whole confusion matrix is written: a million numbers


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """A model's figures on a split.

    Attributes:
        metrics: Figures under their own names: accuracy, loss and so on, and samples. All but the loss (nats) and
            counts are parts of 1.
        predictions: The likeliest class of each image, int64 (images,), in the split's order: class ids of the model.
        labels: Its own class, int64 (images,); -100 for an image that could not be read.
        losses: Its cross entropy in nats, float32 (images,).
        label_names: The model's classes by class id.
        split: What was evaluated, such as "test".
        report: The table that the command prints.
        title: What was evaluated on what, such as "resnet_small_cifar10 on digits".
        intervals: The 95 % intervals of the figures that have one, by the name of the figure, parts of 1.
        tta: The result with test-time augmentation, where it was asked for; all else is without.
        confidences: The probability of each image's likeliest class, a part of 1, float32 (images,).
        slices: By column of `slice_columns`, the figures of its values.
        slice_values: By column of `slice_columns`, the value of each image.
        rows: The row of each image in the split of the source, int64 (images,), whatever images are left out.
        image_name: Returns what an image is called, by its place in `predictions`: its path below the dataset's
            folder, or its row.
    """

    metrics: dict[str, float]
    predictions: np.ndarray
    labels: np.ndarray
    losses: np.ndarray
    label_names: list[str] = field(default_factory=list)
    split: str = "test"
    report: str = ""
    title: str = ""
    intervals: dict[str, Interval] = field(default_factory=dict)
    confidences: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    slices: dict[str, list[SliceFigures]] = field(default_factory=dict)
    slice_values: dict[str, list[str]] = field(default_factory=dict)
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    image_name: Callable[[int], str] = "row {}".format
    tta: EvaluationResult | None = None

    def __repr__(self) -> str:
        """Return one line with the figures."""
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items() if name != "samples")
        return f"EvaluationResult on {self.metrics.get('samples', 0):,.0f} images of {self.split}: {figures}"

    def _repr_html_(self) -> str:
        """Return the table and the confusion matrix, self-contained, as notebooks show them."""
        from hf_finetune.evaluation.plots import plot_confusion_matrix
        from hf_finetune.training.finetune_result import as_html

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / CONFUSION_MATRIX_FILE
            plot_confusion_matrix(self.confusions(), self.label_names, path, self.title, self.split)
            return as_html(self.report or repr(self), [path])

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is given its own class, bool (images,); False for one that could not be read."""
        return np.equal(self.predictions, self.labels)

    def per_class(self) -> list[ClassFigures]:
        """Return precision, recall, F1 and support of every class, by class id."""
        return per_class_figures(self.predictions, self.labels, self.label_names)

    def confusions(self) -> Confusions:
        """Return the cells of the confusion matrix that are not zero, which fit any number of classes."""
        return Confusions.count(self.predictions, self.labels, len(self.label_names))

    def reliability(self) -> list[ReliabilityBin]:
        """Return how often the prediction is correct at each score: 15 bins of scores, without empty ones."""
        if not len(self.confidences):
            return []
        labelled = self.labels >= 0
        return reliability(self.confidences[labelled], self.predictions[labelled] == self.labels[labelled])

    def confusion_matrix(self) -> np.ndarray:
        """Return the number of images of each class (row) that were given each class (column), int64."""
        return self.confusions().matrix()

    def as_mapping(self) -> dict[str, Any]:
        """Return what the JSON file holds: split, metrics, per_class, reliability, label_names and confusion_matrix.

        With test-time augmentation its figures are under `tta`.
        Beside the figures stand their intervals, `accuracy_interval: [low, high]`.

        Beyond 1,000 classes `confusions` takes the place of confusion_matrix: each pair of different classes that
        occurs, with its number of images, the most frequent first.
        """
        if len(self.label_names) <= _MOST_IN_MATRIX:
            confused: dict[str, Any] = {"confusion_matrix": self.confusion_matrix()}
        else:
            confused = {"confusions": self.confusions().most_frequent(self.label_names)}
        return {
            "split": self.split,
            "metrics": {**self.metrics, **interval_keys(self.intervals)},
            "per_class": self.per_class(),
            "reliability": self.reliability(),
            "label_names": self.label_names,
            **({"slices": self.slices} if self.slices else {}),
            **confused,
            **self._tta_mapping(),
        }

    def _tta_mapping(self) -> dict[str, Any]:
        return {} if self.tta is None else {"tta": {**self.tta.metrics, **interval_keys(self.tta.intervals)}}

    def save(self, path: Path) -> list[Path]:
        """Write the figures, and the confusion matrix and the reliability diagram as plots beside them.

        Args:
            path: A JSON file of all figures, or a CSV file with a line for each image: row, label, prediction, loss.

        Returns:
            The files that were written.

        Raises:
            UserError: For a name that ends otherwise.
        """
        from hf_finetune.evaluation.plots import plot_confusion_matrix, plot_reliability

        check_output(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path)
        plot = path.with_name(f"{path.stem}_confusion_matrix.png")
        plot_confusion_matrix(self.confusions(), self.label_names, plot, self.title, self.split)
        diagram = path.with_name(f"{path.stem}_reliability_diagram.png")
        plot_reliability(self.reliability(), diagram, self.title, self.split)
        return [file for file in (path, plot, diagram) if file.is_file()]

    def _write(self, path: Path) -> None:
        if path.suffix.lower() == ".json":
            write_metrics(path, self.as_mapping())
            return
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "label", "prediction", "loss", *([] if self.tta is None else ["tta_prediction"])])
            for row in range(len(self.labels)):
                label, prediction, loss = self._cells(row)
                cells = [row, label, prediction, "" if loss is None else f"{loss:.6f}"]
                if self.tta is not None:
                    cells.append(self.tta._cells(row)[1])
                writer.writerow(map(csv_cell, cells))

    def names_of(self, classes: Any) -> list[str]:
        """Return the name of a class id: a label or a prediction."""
        return [self.label_names[int(classes)]]

    def _cells(self, row: int) -> tuple[str, str, float | None]:
        """Return what a row of the CSV file has of an image: label, prediction and loss; "" and None if unknown."""
        prediction = "|".join(self.names_of(self.predictions[row]))
        if np.any(self.labels[row] < 0):
            return "", prediction, None
        return "|".join(self.names_of(self.labels[row])), prediction, float(self.losses[row])


def check_output(path: Path) -> None:
    """Raise `UserError` where results cannot be written to a file of this name."""
    if path.suffix.lower() not in (".json", ".csv"):
        raise UserError(f"--output is {path}; use a name that ends in .json or .csv.")
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; use the name of a file.")


@dataclass(frozen=True, repr=False)
class LabelSetResult(EvaluationResult):
    """A model's figures on a split whose images have several labels.

    `predictions` are which classes each image is given, bool (images, classes), at the model's thresholds. `labels` are
    1 for each class that it has, int64 (images, classes), and -100 for an image that could not be read. Confidences are
    empty.

    Attributes:
        answers: What the model answered for the labelled images, in the split's order.
    """

    answers: LabelSetPredictions | None = None

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is given all classes that it has and no other, bool (images,)."""
        return np.equal(self.predictions, self.labels).all(axis=1)

    @property
    def known(self) -> LabelSetPredictions:
        """The answers, which every evaluation gives."""
        assert self.answers is not None
        return self.answers

    def _repr_html_(self) -> str:
        """Return the table and the curves of precision and recall, self-contained, as notebooks show them."""
        from hf_finetune.training.finetune_result import as_html

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PRECISION_RECALL_FILE
            self._plot(path)
            return as_html(self.report or repr(self), [path])

    def _plot(self, path: Path) -> None:
        from hf_finetune.evaluation.curves import plot_precision_recall

        plot_precision_recall(self.known, self.label_names, path, self.title, self.split)

    def per_class(self) -> list[ClassFigures]:
        """Return the figures of every class, by class id, with its average precision and its threshold."""
        return [*label_figures(self.known, self.label_names)]

    def confusions(self) -> Confusions:
        """Raise `UserError`: a class is not confused with another where an image may have both."""
        raise UserError("Images with several labels have no confusion matrix; per_class() has each class.")

    def reliability(self) -> list[ReliabilityBin]:
        """Return nothing: there is no likeliest class."""
        return []

    def as_mapping(self) -> dict[str, Any]:
        """Return what the JSON file holds: split, metrics, per_class and label_names; with TTA also `tta`."""
        return {
            "split": self.split,
            "metrics": {**self.metrics, **interval_keys(self.intervals)},
            "per_class": self.per_class(),
            "label_names": self.label_names,
            **({"slices": self.slices} if self.slices else {}),
            **self._tta_mapping(),
        }

    def save(self, path: Path) -> list[Path]:
        """Write the figures, and the curves of precision and recall beside them; see `EvaluationResult.save`.

        In a CSV file labels and predictions are names with | between them.
        """
        check_output(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path)
        plot = path.with_name(f"{path.stem}_precision_recall.png")
        self._plot(plot)
        return [file for file in (path, plot) if file.is_file()]

    def names_of(self, classes: Any) -> list[str]:
        """Return the names of the classes that an image has or is given, a row of `labels` or `predictions`."""
        return [self.label_names[class_id] for class_id in np.flatnonzero(classes > 0)]
