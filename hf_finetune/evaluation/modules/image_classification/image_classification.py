"""The package's metrics as one `evaluate.Metric`, for programs that work with the `evaluate` library.

`evaluate.load` copies this one file into its cache and imports the copy.
"""

from __future__ import annotations

# `evaluate.load` reads the imports line by line: each has to stand on a line of its own.
import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

from hf_finetune.evaluation.metrics import METRICS, Predictions

_DESCRIPTION = f"Metrics of single-label image classification: {', '.join(METRICS)}."

_INPUTS = """
Args:
    predictions: class id with the largest logit, int64, one per image.
    references: class id of the label, int64, one per image.
    top5_hits: whether the label is among the five largest logits, bool, one per image.
    losses: cross entropy in nats, float32, one per image.
    confidences: probability of the predicted class, float32, one per image.
    num_labels (int): number of classes of the model.
Returns:
    The figure of each metric that applies to so many classes, and samples, the number of images.
"""


class ImageClassification(evaluate.Metric):
    """Figures of a single-label image classifier; see `inputs_description`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("int64"),
                    "references": datasets.Value("int64"),
                    "top5_hits": datasets.Value("bool"),
                    "losses": datasets.Value("float32"),
                    "confidences": datasets.Value("float32"),
                }
            ),
            format="numpy",
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(
        self,
        predictions: NDArray[np.int64],
        references: NDArray[np.int64],
        top5_hits: NDArray[np.bool_],
        losses: NDArray[np.float32],
        confidences: NDArray[np.float32],
        num_labels: int,
    ) -> dict[str, float]:
        outcome = Predictions(predictions, references, top5_hits, losses, confidences, num_labels)
        figures = {
            name: metric.compute(outcome) for name, metric in METRICS.items() if num_labels >= metric.min_classes
        }
        return {**figures, "samples": len(references)}
