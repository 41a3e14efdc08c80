"""Fits the threshold of each class on the validation images, for images with several labels."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from transformers import EvalPrediction
from transformers.trainer_utils import PredictionOutput

from hf_finetune.evaluation.multi_label import MultiLabelMetrics, best_thresholds
from hf_finetune.logs import get_logger
from hf_finetune.models.head import class_names
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

_FEWEST = 5  # validation images with a class, and without it, from which on its threshold is fitted
_DIGITS = 6


def saved_thresholds(
    logits: NDArray[np.float32], has_label: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return `best_thresholds` of enough images, rounded as they are saved, and which of them were fitted.

    Args:
        logits: Float32 (images, classes).
        has_label: Bool (images, classes).
    """
    thresholds, fitted = best_thresholds(logits, has_label, _FEWEST)
    return np.round(thresholds, _DIGITS), fitted


def fit_thresholds(trainer: ImageClassificationTrainer, validation: PredictionOutput) -> PredictionOutput:
    """Fit thresholds and put them into the model's configuration, which saves them.

    All ranks call it with the same predictions, and find the same.

    Args:
        trainer: A trainer with the weights of the result.
        validation: What it answered for the validation images.

    Returns:
        The same with the figures at these thresholds; as it is where an image has one class.
    """
    metrics = trainer.compute_metrics
    if not isinstance(metrics, MultiLabelMetrics):
        return validation
    predictions, names = metrics.predictions(validation), class_names(trainer.model.config)
    thresholds, fitted = saved_thresholds(predictions.logits, predictions.has_label)
    metrics.thresholds[:] = thresholds
    trainer.model.config.thresholds = thresholds.tolist()
    if fitted.any():
        low, high = (
            int(find(np.where(fitted, thresholds, other))) for find, other in ((np.argmin, 2), (np.argmax, -1))
        )
        found = f"from {thresholds[low]:.2f} ({names[low]}) to {thresholds[high]:.2f} ({names[high]})"
        logger.info(f"Thresholds by validation, for the highest F1 of each class: {found}.")
    if not fitted.all():
        logger.info(
            f"Note: {np.count_nonzero(~fitted):,} of {len(names):,} classes keep the threshold 0.5, because fewer than"
            f" {_FEWEST} validation images have them, or lack them."
        )
    figures = metrics(cast(EvalPrediction, validation))
    updated = {**(validation.metrics or {}), **{f"eval_{name}": figures[name] for name in metrics.names}}
    return PredictionOutput(validation.predictions, validation.label_ids, updated)
