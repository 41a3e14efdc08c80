"""Training room: the schedules that Transformers lacks and the loss, as pure functions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


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


def warmed_up_factor(
    step: int,
    *,
    shape: Callable[[int], float],
    warmup_steps: int,
    start_factor: float | None,
    multiplies: bool,
    hold: int,
) -> float:
    """Returns the factor on the learning rate at optimizer step `step` with a warm-up as in MMClassification.

    `shape` is the schedule's factor at a step. Where `multiplies`, it runs from step 0 and the warm-up is multiplied to
    it: linear from `start_factor` at step 0 to 1 at step `warmup_steps`, as MMCV's. Otherwise it begins at step
    `warmup_steps`, and the warm-up reaches 1 one step earlier, as MMEngine's LinearLR does. Without `start_factor` the
    warm-up is the schedule's own. `hold` is for how many steps the shape stands still: an epoch's, or 1.
    """
    if start_factor is None and step < warmup_steps:
        return shape(step)
    factor = shape(max(step // hold * hold, 0 if multiplies else warmup_steps))
    if step < warmup_steps:
        last = warmup_steps if multiplies else max(1, warmup_steps - 1)
        factor *= start_factor + (1 - start_factor) * step / last
    return factor


def warmed_up_schedule(schedule: LRScheduler, **settings: Any) -> LambdaLR:
    """Returns a schedule of Transformers with the warm-up of `warmed_up_factor`, which takes the settings.

    Raises `ValueError` for a schedule that is no function of the step, such as reduce_lr_on_plateau.
    """
    if not isinstance(schedule, LambdaLR):
        raise ValueError("it is no function of the step, so warm-up and lr_by_epoch have no meaning for it")
    return LambdaLR(schedule.optimizer, partial(warmed_up_factor, shape=schedule.lr_lambdas[0], **settings))


def classification_loss(label_smoothing: float) -> Callable[..., torch.Tensor]:
    """Returns the Trainer's `compute_loss_func`: cross entropy, averaged over the whole global batch.

    The stock Trainer believes that a model divides its loss by `num_items_in_batch`; ResNet and many other families do
    not, and their gradients come out multiplied by accumulation steps and processes (transformers#47688). Here the
    division is in one place, for every model. Labels are class ids, int64 (batch,), or of mixed pictures targets,
    float32 (batch, classes), whose rows count for as much as they add up to.
    """

    def compute_loss(
        outputs: object, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if num_items_in_batch is None:
            return functional.cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing)
        if labels.is_floating_point():
            smoothed = torch.lerp(labels, labels.mean(dim=1, keepdim=True), label_smoothing)
            total = -(smoothed * functional.log_softmax(outputs.logits, dim=1)).sum()
        else:
            total = functional.cross_entropy(outputs.logits, labels, label_smoothing=label_smoothing, reduction="sum")
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.clamp(min=1)  # not one picture of the batch could be read
        return total / num_items_in_batch

    return compute_loss
