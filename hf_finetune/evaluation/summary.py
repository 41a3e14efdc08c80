"""What a split shows beside its figures, for each task: the figures of its classes, lists and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from hf_finetune.config.run_files import CONFUSION_MATRIX_FILE, PRECISION_RECALL_FILE, RELIABILITY_FILE
from hf_finetune.evaluation.analysis import ClassFigures, Confusions, per_class_figures
from hf_finetune.evaluation.calibration import ReliabilityBin, reliability
from hf_finetune.evaluation.metrics import Predictions, as_percent
from hf_finetune.evaluation.multi_label import LabelSetPredictions, label_figures, mean_average_precision
from hf_finetune.shown_text import one_line

_MOST_CONFUSIONS = 100  # in the file of figures


class Summary(Protocol):
    """The summary of a split.

    Attributes:
        plots: The files that `plot` draws.
    """

    plots: ClassVar[tuple[str, ...]]

    def per_class(self) -> Sequence[ClassFigures]:
        """Return the figures of each class, by class id."""

    def as_mapping(self) -> dict[str, Any]:
        """Return what the file of figures has of the split beside these."""

    def plot(self, folder: Path, title: str, split: str) -> None:
        """Draw the plots of the split into a folder; `title` says what was trained on what."""

    def ignorance(self) -> str | None:
        """Return what shows that the network is no better than one that knows no image, None where it is better."""


@dataclass(frozen=True)
class OneLabelSummary:
    """The summary of a split whose images have one class each.

    Attributes:
        predictions: What the model answered.
        label_names: Class names by class id.
    """

    plots: ClassVar[tuple[str, ...]] = (CONFUSION_MATRIX_FILE, RELIABILITY_FILE)

    predictions: Predictions
    label_names: Sequence[str]

    def per_class(self) -> Sequence[ClassFigures]:
        return per_class_figures(self.predictions.classes, self.predictions.labels, self.label_names)

    def confusions(self) -> Confusions:
        """Return how many images of each label were given each class."""
        return Confusions.count(self.predictions.classes, self.predictions.labels, len(self.label_names))

    def reliability(self) -> list[ReliabilityBin]:
        """Return how often the prediction is correct at each score."""
        return reliability(self.predictions.confidences, self.predictions.classes == self.predictions.labels)

    def as_mapping(self) -> dict[str, Any]:
        confused = self.confusions().most_frequent(self.label_names, _MOST_CONFUSIONS)
        return {"most_frequent_confusions": confused, "reliability": self.reliability()}

    def plot(self, folder: Path, title: str, split: str) -> None:
        from hf_finetune.evaluation.plots import plot_confusion_matrix, plot_reliability  # matplotlib

        path = folder / CONFUSION_MATRIX_FILE
        plot_confusion_matrix(self.confusions(), self.label_names, path, title, split)
        plot_reliability(self.reliability(), folder / RELIABILITY_FILE, title, split)

    def ignorance(self) -> str | None:
        # A network that knows no image answers with the largest class each time.
        largest = max(self.per_class(), key=lambda figures: figures["support"])
        images = len(self.predictions.labels)
        share, accuracy = largest["support"] / images, self.predictions.correct.sum() / images
        if accuracy > share or len(self.label_names) == 1:
            return None
        return (
            f"it is right on {accuracy:.2%} of {{split}}, and {share:.2%} are of the class {one_line(largest['name'])}"
        )


@dataclass(frozen=True)
class SeveralLabelsSummary:
    """The summary of a split whose images have several labels; see `OneLabelSummary`."""

    plots: ClassVar[tuple[str, ...]] = (PRECISION_RECALL_FILE,)

    predictions: LabelSetPredictions
    label_names: Sequence[str]

    def per_class(self) -> Sequence[ClassFigures]:
        return label_figures(self.predictions, self.label_names)

    def as_mapping(self) -> dict[str, Any]:
        return {}

    def plot(self, folder: Path, title: str, split: str) -> None:
        from hf_finetune.evaluation.curves import plot_precision_recall  # matplotlib

        plot_precision_recall(self.predictions, self.label_names, folder / PRECISION_RECALL_FILE, title, split)

    def ignorance(self) -> str | None:
        # The average precision of an order that knows no image is the share of the images that have the class.
        support = self.predictions.support
        if not support.any():
            return None
        share, figure = (
            float(support[support > 0].mean()) / len(self.predictions.logits),
            mean_average_precision(self.predictions),
        )
        if figure > share:
            return None
        return f"its mAP is {as_percent(figure)} on {{split}}, and a class is on {as_percent(share)} of the images"


def summary_of(predictions: Predictions | LabelSetPredictions, label_names: Sequence[str]) -> Summary:
    """Return the summary of what a model answered for a split."""
    if isinstance(predictions, LabelSetPredictions):
        return SeveralLabelsSummary(predictions, label_names)
    return OneLabelSummary(predictions, label_names)
