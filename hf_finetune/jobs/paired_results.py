"""The evaluations of two models, image by image: what each says of the images that both classified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from hf_finetune.errors import UserError
from hf_finetune.evaluation.multi_label import LabelSetPredictions
from hf_finetune.evaluation.paired import PairedCounts
from hf_finetune.evaluation.paired_label_sets import PairedFigure, paired_figures
from hf_finetune.evaluation.paired_slices import PairedSlice, paired_slices
from hf_finetune.jobs.evaluation_result import EvaluationResult, LabelSetResult
from hf_finetune.tasks import counted


class ClassDifference(TypedDict):
    """The recall of one class under both models, or its F1 where images have several labels; parts of 1.

    `images` is the number of images of the class.
    """

    name: str
    images: int
    first: float
    second: float
    difference: float


class Disagreement(TypedDict):
    """An image that only one of the models classifies correctly: `correct` is "first" or "second".

    Several labels are names in the order of the alphabet with | between them.
    """

    row: int
    image: str
    label: str
    first: str
    second: str
    correct: str


@dataclass(frozen=True)
class PairedResults:
    """Two evaluations of the same split, for the same task.

    Attributes:
        first: The evaluation of the first model.
        second: That of the second.
        places: Where in each evaluation the images are that both classified, int64 (images,) each.
        only: How many labelled images only the first classified, and only the second: one of them could not read these.
    """

    first: EvaluationResult
    second: EvaluationResult
    places: tuple[NDArray[np.int64], NDArray[np.int64]]
    only: tuple[int, int]

    @classmethod
    def of(cls, first: EvaluationResult, second: EvaluationResult) -> PairedResults:
        """Find the images that both classified, by their rows in the source, in the split's order.

        Raises:
            UserError: There are none.
        """
        known_1, known_2 = (np.flatnonzero(counted(result.labels)) for result in (first, second))
        _, shared_1, shared_2 = np.intersect1d(
            first.rows[known_1], second.rows[known_2], assume_unique=True, return_indices=True
        )
        if not len(shared_1):
            raise UserError(f"No image of {first.split} can be read by both models; use two that read the same images.")
        order = np.argsort(shared_1)
        places = known_1[shared_1[order]], known_2[shared_2[order]]
        return cls(first, second, places, (len(known_1) - len(order), len(known_2) - len(order)))

    @property
    def several(self) -> bool:
        """Whether an image has several labels."""
        return isinstance(self.first, LabelSetResult)

    @cached_property
    def correct(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each model is correct on the images, bool (images,): of several labels it gives all and no other."""
        return self.first.correct[self.places[0]], self.second.correct[self.places[1]]

    def counts(self) -> PairedCounts:
        """Return on how many images both, one and neither of the models are correct."""
        return PairedCounts.of(*self.correct)

    @cached_property
    def figures(self) -> dict[str, PairedFigure]:
        """mAP and F1 of both, where images have several labels; else nothing."""
        if not isinstance(self.first, LabelSetResult) or not isinstance(self.second, LabelSetResult):
            return {}
        return paired_figures(_answers(self.first, self.places[0]), _answers(self.second, self.places[1]))

    def per_class(self) -> list[ClassDifference]:
        """Return the figures of each class that has an image, in the order of the first model's class ids."""
        images, *figures = self._label_figures() if self.several else self._recalls()
        return [
            {
                "name": self.first.label_names[class_id],
                "images": int(images[class_id]),
                "first": float(figures[0][class_id]),
                "second": float(figures[1][class_id]),
                "difference": float(figures[1][class_id] - figures[0][class_id]),
            }
            for class_id in np.flatnonzero(images)
        ]

    def disagreements(self) -> Iterator[Disagreement]:
        """Yield the images on which only one of the models is correct, in the split's order."""
        for number in np.flatnonzero(self.correct[0] != self.correct[1]).tolist():
            place, place_2 = int(self.places[0][number]), int(self.places[1][number])
            yield {
                "row": place,
                "image": self.first.image_name(place),
                "label": _text(self.first, self.first.labels[place]),
                "first": _text(self.first, self.first.predictions[place]),
                "second": _text(self.second, self.second.predictions[place_2]),
                "correct": "first" if self.correct[0][number] else "second",
            }

    def slices(self) -> dict[str, list[PairedSlice]]:
        """Return the figures of the values of each column of `slice_columns`."""
        return {
            column: paired_slices([values[place] for place in self.places[0].tolist()], *self.correct)
            for column, values in self.first.slice_values.items()
        }

    def _recalls(self) -> list[NDArray[np.float64]]:
        """Return the number of images of each class of the first model, and its recall under both, NaN without any."""
        labels, classes = self.first.labels[self.places[0]], len(self.first.label_names)
        images = np.bincount(labels, minlength=classes)
        with np.errstate(invalid="ignore"):  # 0 / 0
            recalls = [np.bincount(labels[correct], minlength=classes) / images for correct in self.correct]
        return [images.astype(np.float64), *recalls]

    def _label_figures(self) -> list[NDArray[np.float64]]:
        """Return the number of images that have each class of the first model, and its F1 under both."""
        has_label = self.first.labels[self.places[0]] > 0
        images = has_label.sum(axis=0)
        # A class that the second model lacks is on no image, so its column does not matter. Of equal names, which only
        # classes by index may have, the first is meant.
        column_of = {name: column for column, name in reversed([*enumerate(self.second.label_names)])}
        columns = [column_of.get(name, 0) for name in self.first.label_names]
        given = self.first.predictions[self.places[0]], self.second.predictions[self.places[1]][:, columns]
        return [images, *(2 * (own & has_label).sum(axis=0) / np.maximum(own.sum(axis=0) + images, 1) for own in given)]


def _answers(result: LabelSetResult, places: NDArray[np.int64]) -> LabelSetPredictions:
    """Return a model's answers for images at some places of its evaluation, all of which are labelled."""
    known = counted(result.labels)
    if np.array_equal(places, np.flatnonzero(known)):
        return result.known  # which has been resampled for its own intervals
    return result.known.some((np.cumsum(known) - 1)[places])


def _text(result: EvaluationResult, classes: np.ndarray) -> str:
    """Return the name of a class, or names of classes in an order that does not depend on the model."""
    return "|".join(sorted(result.names_of(classes)))
