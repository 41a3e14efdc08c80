"""Weights between a network's start, with a probed head, and its end: those that validation finds best are kept.

Wortsman et al., "Robust fine-tuning of zero-shot models" (CVPR 2022, arXiv 2109.01903): on the straight way from the
start to the end of a fine-tuning the loss changes smoothly, and is often least in between. A training that made the
network worse is undone by the same choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Subset
from transformers.trainer_utils import PredictionOutput

from hf_finetune.data.splits import random_subset
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.probed_start import ProbedStart
from hf_finetune.training.extensions.time_budget import TimeBudget
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way


def keep_best_between(trainer: ImageClassificationTrainer, validation: Any) -> float | None:
    """Leave the network with the weights of the way that validation finds best, and say how they compare.

    Args:
        trainer: A trainer that has trained.
        validation: The validation images; of a run with a time budget as many as its plan has time for.

    Returns:
        The share of the way that was kept; None where no start was kept to compare with.
    """
    start = trainer.extensions.find(ProbedStart)
    if start is None or not start.weights:
        return None
    clock = trainer.extensions.find(TimeBudget)
    if clock is not None and clock.compared is not None and clock.compared < len(validation):
        rows = random_subset(len(validation), clock.compared, trainer.args.seed)
        validation = Subset(validation, rows.tolist())
    own = trainer.model.state_dict()
    end = {name: own[name].cpu().clone() for name in start.weights}
    outputs = []
    for share in SHARES:
        leave_if_interrupted()
        trainer.model.load_state_dict(between(start.weights, end, share), strict=len(end) == len(own))
        outputs.append(trainer.predict(validation, metric_key_prefix="eval"))
    chosen = choose(outputs, trainer)
    trainer.model.load_state_dict(between(start.weights, end, SHARES[chosen]), strict=len(end) == len(own))
    metric = trainer.args.chosen_by
    figures = [output.metrics or {} for output in outputs]
    told = [
        f"{share:.0%} {given[f'eval_{metric}']:.4f}" + ("" if metric == "loss" else f" (loss {given['eval_loss']:.4f})")
        for share, given in zip(SHARES, figures, strict=True)
    ]
    kept = {0: "The network with the probed head alone is", len(SHARES) - 1: "The network of the end is"}
    logger.info(
        f"From the probed head to the end of the training, {metric} on validation: {', '.join(told)}."
        f" {kept.get(chosen, f'The weights at {SHARES[chosen]:.0%} of the way are')} kept."
    )
    return SHARES[chosen]


def between(start: dict[str, torch.Tensor], end: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Return the weights at a share of the way from one set to another; whole numbers are those of the end.

    Args:
        start: Tensors by name.
        end: Tensors of the same names, shapes and dtypes.
        share: 0 for the start, 1 for the end.
    """
    if share in (0.0, 1.0):
        return end if share else start
    return {
        name: torch.lerp(start[name].double(), tensor.double(), share).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in end.items()
    }


def choose(outputs: Sequence[PredictionOutput], trainer: ImageClassificationTrainer) -> int:
    """Return which evaluation is the best, of those that cannot be told apart the first.

    Two accuracies are told apart if they differ by more than two standard errors, so by five images that only one of
    both gets right: of 10 images each is a tenth of the accuracy, and the loss says more. Of those with the best
    accuracy the loss decides, and of those within one standard error of the least loss the first is taken, as the one
    nearest to what was there before (Breiman's rule). Another metric than accuracy and loss decides alone.

    Args:
        outputs: Evaluations of the same images.
        trainer: Its settings name the metric.
    """
    metric = trainer.args.chosen_by
    metrics = cast(ClassificationMetrics, trainer.compute_metrics)
    if metric not in ("accuracy", "loss"):
        sign = 1 if metrics.greater_is_better(metric, trainer.args.greater_is_better) else -1
        return int(np.argmax([sign * (output.metrics or {})[f"eval_{metric}"] for output in outputs]))
    predictions = [metrics.predictions(output) for output in outputs]
    rows = np.arange(len(outputs))
    if metric == "accuracy":
        wrong = np.array([own.classes != own.labels for own in predictions], dtype=np.float64)
        rows = not_worse(wrong, rows, 2)
    losses = np.array([own.losses for own in predictions], dtype=np.float64)
    return int(not_worse(losses, rows, 1)[0])


def not_worse(costs: NDArray[np.float64], rows: NDArray[np.int64], errors: int) -> NDArray[np.int64]:
    """Return the rows whose mean cannot be told apart from the least.

    Args:
        costs: What each image costs, float64 (rows, images).
        rows: The rows to compare, int64, ascending.
        errors: The standard errors of the difference, which the same images give, that it may be at most.
    """
    least = rows[np.argmin(costs[rows].mean(axis=1))]
    differences = costs[rows] - costs[least]
    limits = errors * differences.std(axis=1) / np.sqrt(costs.shape[1])
    return rows[differences.mean(axis=1) <= limits]
