"""Which images of a split a report shows: the worst mistakes, the least sure answers, suspects, and confusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hf_finetune.evaluation.analysis import Confusions
from hf_finetune.evaluation.label_suspects import LEAST_ACCURACY, label_suspects
from hf_finetune.reports.answers import Answers

_SHOWN = 24  # images of a list
_OF_CELL = 6  # images of a cell of the matrix
_MOST_CELLS = 200  # that have images: those of most images


@dataclass(frozen=True)
class Decision:
    """A class that was given to an image, or was not, although it has it; for several labels an image."""

    place: int
    class_id: int


@dataclass(frozen=True)
class Choice:
    """The places of images in a split, the most telling first.

    Attributes:
        worst: The mistakes with the highest probability.
        least_sure: Where the likeliest class has the lowest probability.
        suspects: The images whose labels are the strongest suspects.
        num_suspects: How many suspects there are.
        too_few: The part of the labels that the model agrees with, where it is too small to call one suspect.
        cells: By (label, prediction), images of each cell of the confusion matrix.
        decisions: Of several labels an image, the decisions that are wrong with the most certainty.
    """

    worst: Sequence[int] = ()
    least_sure: Sequence[int] = ()
    suspects: Sequence[int] = ()
    num_suspects: int = 0
    too_few: float | None = None
    cells: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    decisions: Sequence[Decision] = ()

    def places(self) -> list[int]:
        """Return all places, each once, the most telling first."""
        lists = [self.worst, [wrong.place for wrong in self.decisions], self.least_sure, self.suspects]
        return list(dict.fromkeys(place for places in [*lists, *self.cells.values()] for place in places))


def choose_images(answers: Answers) -> Choice:
    """Choose the images of a report."""
    known = np.flatnonzero(answers.known)
    if answers.several:
        return Choice(decisions=_wrong_decisions(answers, known))
    surest = known[np.argsort(-answers.confidences[known], kind="stable")]
    wrong = surest[~answers.correct[surest]]
    accuracy = float(answers.correct[known].mean()) if len(known) else 0.0
    suspects = known[:0]
    if accuracy >= LEAST_ACCURACY:
        suspects = known[
            label_suspects(
                answers.labels[known],
                np.exp(-answers.losses[known]),
                answers.classes[known],
                answers.probabilities[known],
                len(answers.label_names),
            )
        ]
    return Choice(
        worst=wrong[:_SHOWN].tolist(),
        least_sure=surest[::-1][:_SHOWN].tolist(),
        suspects=suspects[:_SHOWN].tolist(),
        num_suspects=len(suspects),
        too_few=None if accuracy >= LEAST_ACCURACY else accuracy,
        cells=_cells(answers, surest),
    )


def _cells(answers: Answers, surest: NDArray[np.int64]) -> dict[tuple[int, int], list[int]]:
    """Return the surest images of each cell; cells off the diagonal come first, those of most images before others."""
    found = Confusions.count(answers.predictions[surest], answers.labels[surest], len(answers.label_names))
    order = np.lexsort([-found.images, found.labels == found.predictions])[:_MOST_CELLS]
    cells = {(int(found.labels[cell]), int(found.predictions[cell])): list[int]() for cell in order}
    pairs = zip(surest.tolist(), answers.labels[surest].tolist(), answers.predictions[surest].tolist(), strict=True)
    for place, label, prediction in pairs:
        shown = cells.get((label, prediction))
        if shown is not None and len(shown) < _OF_CELL:
            shown.append(place)
    return cells


def _wrong_decisions(answers: Answers, known: NDArray[np.int64]) -> list[Decision]:
    """Return the decisions whose probability is farthest from what it should be."""
    truth = answers.labels[known] > 0
    whole = answers.whole()[known]
    errors = np.where(truth, 1 - whole, whole)
    errors[(truth == answers.predictions[known]) | np.isnan(errors)] = -1
    worst = np.argsort(-errors, axis=None, kind="stable")[:_SHOWN]
    rows, classes = np.unravel_index(worst, errors.shape)
    return [
        Decision(int(known[row]), int(class_id))
        for row, class_id in zip(rows, classes, strict=True)
        if errors[row, class_id] >= 0
    ]
