"""What the answers of a model say of its limits, in sentences for the model card."""

from __future__ import annotations

import numpy as np

from hf_finetune.evaluation.metrics import as_percent
from hf_finetune.evaluation.report import format_interval
from hf_finetune.evaluation.slices import slice_figures
from hf_finetune.pages.page import shortened
from hf_finetune.reports.answers import Answers
from hf_finetune.reports.choice import choose_images
from hf_finetune.shown_text import one_line

_MOST_SLICES = 20  # that are named
_APART = 0.02  # of mean score and accuracy: two points


def limits_of(answers: Answers) -> list[str]:
    """Return a sentence on scores, on labels that may be wrong, and on each slice that is worse or too small."""
    known = np.flatnonzero(answers.known)
    if not len(known):
        return []
    sentences = [] if answers.several else [*_scores(answers, known), *_suspects(answers, len(known))]
    return [*sentences, *_slices(answers, known)[:_MOST_SLICES]]


def _scores(answers: Answers, known: np.ndarray) -> list[str]:
    mean, accuracy = float(answers.confidences[known].mean()), float(answers.correct[known].mean())
    if abs(mean - accuracy) <= _APART:
        return []
    tendency = "too high" if mean > accuracy else "too low"
    return [
        f"Scores are {tendency} on the whole: their mean is {as_percent(mean)}, and {as_percent(accuracy)} of the"
        " predictions are correct."
    ]


def _suspects(answers: Answers, images: int) -> list[str]:
    count = choose_images(answers).num_suspects
    if not count:
        return []
    return [
        f"{count:,} of the {images:,} labels by which it was evaluated may be wrong (suspects of confident learning,"
        " Northcutt et al. 2021), which would falsify the figures."
    ]


def _slices(answers: Answers, known: np.ndarray) -> list[str]:
    sentences = []
    for column, values in answers.slices.items():
        for row in slice_figures([values[place] for place in known.tolist()], answers.correct[known]):
            name = f"{one_line(shortened(column))} {one_line(shortened(row['value']))}"
            figure = (
                f"{as_percent(row['accuracy'])} of {row['images']:,} images (95 %: {format_interval(row['interval'])})"
            )
            if row["below"]:
                sentences.append(f"It is worse for {name}: {figure} are correct.")
            elif row["too_few"]:
                sentences.append(f"Too few images tell how good it is for {name}: {figure} are correct.")
    return sentences
