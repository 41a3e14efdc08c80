"""Training room: the step schedule and the loss, as pure functions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def multistep_factor(
    step: int, *, warmup_steps: int, updates_per_epoch: int, milestones: Sequence[float], gamma: float
) -> float:
    """Returns the factor on the learning rate at optimizer step `step`, counted from 0.

    Warm-up is linear and ends at 1. Afterwards the factor is `gamma` to the number of milestones passed; `milestones`
    are epochs, ascending, and a milestone's first step is the first step of that epoch. A pure function of the step, so
    accumulation, the number of processes and a resume cannot move it.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return gamma ** bisect_right([milestone * updates_per_epoch for milestone in milestones], step)


def multistep_schedule(
    optimizer: Optimizer, *, warmup_steps: int, updates_per_epoch: int, milestones: Sequence[float], gamma: float
) -> LambdaLR:
    """Returns the step schedule of MMClassification's `lr_config=dict(policy='step')` for an optimizer."""
    factor = partial(
        multistep_factor,
        warmup_steps=warmup_steps,
        updates_per_epoch=updates_per_epoch,
        milestones=sorted(milestones),
        gamma=gamma,
    )
    return LambdaLR(optimizer, factor)


def classification_loss(label_smoothing: float) -> Callable[..., torch.Tensor]:
    """Returns the Trainer's `compute_loss_func`: cross entropy, averaged over the whole global batch.

    The stock Trainer believes that a model divides its loss by `num_items_in_batch`; ResNet and many other families do
    not, and their gradients come out multiplied by accumulation steps and processes (transformers#47688). Here the
    division is in one place, for every model.
    """

    def compute_loss(
        outputs: object, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if num_items_in_batch is None:
            return functional.cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing)
        total = functional.cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing, reduction="sum")
        return total / num_items_in_batch

    return compute_loss
