"""The figures of a single-label image classifier, as one `evaluate.Metric`.

`evaluate.load` copies this one file into its cache and imports the copy, so it imports nothing of its own package.
"""

from __future__ import annotations

# `evaluate.load` reads the imports line by line: these two have to stand on lines of their own.
import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

_DESCRIPTION = """
Accuracy, top-5 accuracy (with more than five classes), macro F1, balanced accuracy and mean loss of an image
classifier that gives each image one class.
"""

_INPUTS = """
Args:
    predictions: class id with the largest logit, int64, one an image.
    references: class id of the label, int64, one an image.
    top5_hits: whether the label is among the five largest logits, bool, one an image.
    losses: cross entropy in nats, float32, one an image.
    num_labels (int): number of classes of the model.
Returns:
    accuracy, macro_f1, balanced_accuracy and, with more than five classes, top5_accuracy: parts of 1.
    loss: mean of the losses, summed in float64.
    samples: number of images.
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
                }
            ),
            format="numpy",
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, **inputs: np.ndarray | int) -> dict[str, float]:
        return self.figures(**inputs)

    def figures(
        self,
        predictions: np.ndarray,
        references: np.ndarray,
        top5_hits: np.ndarray,
        losses: np.ndarray,
        num_labels: int,
    ) -> dict[str, float]:
        """Returns what `compute` returns, but takes the arrays as they are, not by way of a Python object a number."""
        _, recall, f1, support = precision_recall_fscore_support(
            references, predictions, labels=np.union1d(references, predictions), zero_division=0.0
        )
        figures = {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1.mean()),
            # sklearn's balanced_accuracy_score is this mean, with a warning where a class was only predicted.
            "balanced_accuracy": float(recall[support > 0].mean()),
            "loss": float(np.mean(losses, dtype=np.float64)),
            "samples": len(references),
        }
        if num_labels > 5:
            figures["top5_accuracy"] = float(np.mean(top5_hits))
        return figures
