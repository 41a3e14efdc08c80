"""Metrics of the caller's own beside the registered ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from transformers import EvalPrediction

from hf_finetune.errors import UserError, first_line
from hf_finetune.evaluation.metrics import ClassificationMetrics, reduce_logits

Metric = Callable[[np.ndarray, np.ndarray], float]
"""Probabilities, float32 (images, classes), and labels, int64 (images,), to a figure."""


class AddedMetrics:
    """The Trainer's `compute_metrics`: the registered figures, and those of the caller's own functions.

    Each function needs the probabilities of all images, so `reduce` keeps them: 4 bytes for each image and class.
    """

    def __init__(self, label_names: Sequence[str], functions: Mapping[str, Metric]) -> None:
        """Check the names.

        Raises:
            UserError: For a name that a registered figure has.
        """
        self.label_names, self.functions = list(label_names), dict(functions)
        self._registered = ClassificationMetrics(label_names)
        taken = {*self._registered.names, "samples", "runtime"} & self.functions.keys()
        if taken:
            raise UserError(f"metrics: {min(taken)} is the name of a figure that is there already; use another name.")

    @property
    def names(self) -> list[str]:
        """What the figures are called: what `metric_for_best_model` may name."""
        return [*self._registered.names, *self.functions]

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Return what `reduce_logits` does and, for functions, probabilities, float32 (batch, classes)."""
        reduced = reduce_logits(logits, labels)
        return (*reduced, logits.float().softmax(dim=-1)) if self.functions else reduced

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the figures of a split, as `ClassificationMetrics` does, and the added ones under their own names.

        Raises:
            UserError: Where a function fails or returns no number.
        """
        registered = EvalPrediction(prediction.predictions[:3], prediction.label_ids)
        figures = dict(self._registered(registered))
        labelled = prediction.label_ids >= 0
        for name, function in self.functions.items():
            try:
                value = function(prediction.predictions[3][labelled], prediction.label_ids[labelled])
                figures[name] = float(value)
            except Exception as error:  # whatever the function of somebody else stumbles over
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise UserError(f"metrics: {name} cannot be computed: {reason}.") from error
        return figures

    def check(self) -> None:
        """Compute the added figures once, on made-up probabilities, so that a mistake shows before the first step."""
        classes = len(self.label_names)
        for name, function in self.functions.items():
            probabilities = np.full((classes, classes), 1 / classes, dtype=np.float32)
            try:
                float(function(probabilities, np.arange(classes)))
            except Exception as error:  # as above
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise UserError(
                    f"metrics: {name} failed on {classes} images of {classes} classes ({reason}); it is called with"
                    " probabilities (images, classes) and labels (images,), and returns a number."
                ) from error
