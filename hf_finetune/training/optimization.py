"""Which parameters are decayed, and the optimizers and schedules that Transformers lacks."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedModel, get_scheduler

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.config.training_keys import MULTISTEP, MUON, ONE_CYCLE, SGD, plain_word
from hf_finetune.errors import UserError
from hf_finetune.training.muon import Muon, muon_matrices


def decayed_parameters(model: nn.Module, norms_and_biases: bool, left_out: Collection[str]) -> list[str]:
    """Return the names of the parameters with weight decay.

    Args:
        model: The network.
        norms_and_biases: Whether parameters of one dimension are decayed too. timm does not decay them
            (`param_groups_weight_decay`).
        left_out: Parts of dotted names, such as `cls_token`; parameters that have one are not decayed.
    """
    return [
        name
        for name, parameter in model.named_parameters()
        if (norms_and_biases or parameter.ndim > 1) and set(left_out).isdisjoint(name.split("."))
    ]


def own_optimizer(
    args: FinetuneArguments, model: PreTrainedModel, is_sharded: bool
) -> tuple[type[Optimizer], dict[str, Any]] | None:
    """Return the class of the optimizer and its arguments, None for those of Transformers.

    Args:
        args: The settings of the optimizer, and the device.
        model: The network, before anything wraps it.
        is_sharded: Whether the weights are divided over the ranks; such weights have no fused kernel.

    Raises:
        UserError: The optimizer needs whole weights, and they are divided.
    """
    settings: dict[str, Any] = {"lr": args.learning_rate, "momentum": args.momentum, "nesterov": args.nesterov}
    if args.optim == SGD:  # with momentum; the stock Trainer's is without
        # One pass over each tensor instead of four.
        fused = args.device.type in ("cpu", "cuda") and not is_sharded
        return torch.optim.SGD, {**settings, "fused": fused}
    if args.optim != MUON:
        return None
    if is_sharded:
        raise UserError(
            "optim muon needs whole weights in each process; use --optim adamw_torch with FSDP or DeepSpeed."
        )
    betas = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    return Muon, {**settings, **betas, "matrices": muon_matrices(model)}


def multistep_factor(
    step: int, *, warmup_steps: int, updates_per_epoch: int, milestones: Sequence[float], gamma: float
) -> float:
    """Return the factor on the learning rate of a step schedule with a linear warm-up.

    It is a pure function of the step, so accumulation, the number of ranks and a resume cannot move it.

    Args:
        step: The optimizer step, from 0.
        warmup_steps: Steps over which the factor rises to 1.
        updates_per_epoch: Optimizer steps of an epoch.
        milestones: Epochs, ascending; from the first step of each on, the factor is multiplied by `gamma`.
        gamma: See there.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return gamma ** bisect_right([milestone * updates_per_epoch for milestone in milestones], step)


def multistep_schedule(
    optimizer: Optimizer, *, warmup_steps: int, updates_per_epoch: int, milestones: Sequence[float], gamma: float
) -> LambdaLR:
    """Return the step schedule of MMClassification's `lr_config=dict(policy='step')` (see `multistep_factor`)."""
    factor = partial(
        multistep_factor,
        warmup_steps=warmup_steps,
        updates_per_epoch=updates_per_epoch,
        milestones=sorted(milestones),
        gamma=gamma,
    )
    return LambdaLR(optimizer, factor)


def one_cycle_factor(
    step: int,
    *,
    total_steps: int,
    pct_start: float = 0.25,
    div: float = 25.0,
    div_final: float = 1e5,
    anneal: str = "cosine",
) -> float:
    """Return the factor on the learning rate of the one-cycle policy, without cycling the momentum.

    Shape and defaults are those of fastai's `fit_one_cycle`, after Smith, "Super-convergence" (arXiv 1708.07120).

    Args:
        step: The optimizer step, from 0.
        total_steps: The steps of the cycle.
        pct_start: The share of the cycle in which the rate rises, above 0 and below 1.
        div: The rate rises from 1 / div ...
        div_final: ... and falls to 1 / div_final.
        anneal: cosine, or linear for a triangle.

    Raises:
        ValueError: A setting cannot be.
    """
    if not 0 < pct_start < 1 or div < 1 or div_final < 1 or anneal not in ("cosine", "linear"):
        raise ValueError("pct_start is between 0 and 1, div and div_final are at least 1, anneal is cosine or linear")
    share = min(1.0, step / max(1, total_steps))
    start, end, part = 1 / div, 1.0, share / pct_start
    if share >= pct_start:
        start, end, part = 1.0, 1 / div_final, (share - pct_start) / (1 - pct_start)
    return start + (end - start) * (part if anneal == "linear" else (1 - math.cos(math.pi * part)) / 2)


# The factor on the rate at a share of a warm-up, 0 to 1, that begins at `start`: MMCV's linear, constant and exp.
_WARM_UPS: dict[str, Callable[[float, float], float]] = {
    "linear": lambda start, part: start + (1 - start) * part,
    "constant": lambda start, part: start if part < 1 else 1.0,
    "exponential": lambda start, part: start ** (1 - part),
}


def warmed_up_factor(
    step: int,
    *,
    shape: Callable[[float], float],
    warmup_steps: int,
    start_factor: float | None,
    multiplies: bool,
    hold: int,
    end: float = math.inf,
    warmup_type: str = "linear",
    warmup_hold: int = 1,
) -> float:
    """Return the factor on the learning rate of a schedule with a warm-up as in MMClassification.

    Args:
        step: The optimizer step, from 0.
        shape: The schedule's own factor at a step.
        warmup_steps: The length of the warm-up.
        start_factor: The factor at step 0; None where the warm-up is the schedule's own.
        multiplies: Whether the schedule runs from step 0 and is multiplied by the warm-up, which reaches 1 at step
            `warmup_steps`, as in MMCV. Otherwise the schedule begins at step `warmup_steps`, and the warm-up reaches 1
            with its own last step, as MMEngine's LinearLR and ConstantLR do.
        hold: For how many steps the schedule stands still: an epoch's, or 1.
        end: The step from which on the schedule stays as it is.
        warmup_type: linear, constant or exponential.
        warmup_hold: For how many steps the warm-up stands still.
    """
    if start_factor is None and step < warmup_steps:
        return shape(step)
    factor = shape(min(max(step // hold * hold, 0 if multiplies else warmup_steps), end))
    if step < warmup_steps and start_factor is not None:
        last = warmup_steps if multiplies else max(1, warmup_steps - warmup_hold)
        factor *= _WARM_UPS[warmup_type](start_factor, min(1.0, step // warmup_hold * warmup_hold / last))
    return factor


def warmed_up_schedule(schedule: LRScheduler, **settings: Any) -> LambdaLR:
    """Return a schedule of Transformers with a warm-up.

    Args:
        schedule: The schedule.
        **settings: The arguments of `warmed_up_factor`.

    Raises:
        ValueError: The schedule is no function of the step, such as reduce_lr_on_plateau.
    """
    if not isinstance(schedule, LambdaLR):
        raise ValueError(
            "it is no function of the step, so warm-up, lr_by_epoch, lr_decay_epochs and lr_reaches_end have no"
            " meaning for it"
        )
    return LambdaLR(
        schedule.optimizer,
        partial(warmed_up_factor, shape=cast("Callable[[float], float]", schedule.lr_lambdas[0]), **settings),
    )


def build_schedule(
    args: FinetuneArguments, optimizer: Optimizer, num_training_steps: int, updates_per_epoch: int
) -> LRScheduler:
    """Return the schedule that a recipe describes: multistep or one of Transformers, with warm-up and end.

    Args:
        args: The settings of the schedule.
        optimizer: What it is made for.
        num_training_steps: Optimizer steps of the whole run.
        updates_per_epoch: Optimizer steps of an epoch.

    Raises:
        ValueError: The schedule is no function of the step, where it must be one, or Transformers cannot use the
            settings; then it may raise `TypeError` too.
    """
    head_alone = args.freeze_epochs or 0
    steps = head_alone * updates_per_epoch
    milestones = [milestone - head_alone for milestone in args.lr_milestones]
    schedule = _schedule(args, optimizer, max(1, num_training_steps - steps), updates_per_epoch, milestones)
    if not steps:
        return schedule
    if not isinstance(schedule, LambdaLR):
        raise ValueError("it is no function of the step, so it cannot begin after freeze_epochs")
    return LambdaLR(optimizer, partial(delayed_factor, shape=schedule.lr_lambdas[0], steps=steps))


def delayed_factor(step: int, *, shape: Callable[[int], float], steps: int) -> float:
    """Return the factor on the learning rate of a schedule that begins after some steps, 1 before it begins.

    Args:
        step: The optimizer step, from 0.
        shape: The schedule's own factor at a step.
        steps: The step at which it begins.
    """
    return 1.0 if step < steps else shape(step - steps)


def _schedule(
    args: FinetuneArguments,
    optimizer: Optimizer,
    num_training_steps: int,
    updates_per_epoch: int,
    milestones: Sequence[float],
) -> LRScheduler:
    warmup_steps = args.get_warmup_steps(num_training_steps)
    if args.warmup_epochs is not None:
        warmup_steps = round(args.warmup_epochs * updates_per_epoch)
    own_warm_up = args.warmup_start_factor is not None
    hold = updates_per_epoch if args.lr_by_epoch else 1
    begin = 0 if args.warmup_multiplies else warmup_steps
    end = num_training_steps
    if args.lr_decay_epochs is not None:
        end = begin + round(args.lr_decay_epochs * updates_per_epoch)
    if args.lr_reaches_end:
        end -= hold
    end = max(end, begin + 1)
    schedule_type = plain_word(args.lr_scheduler_type)
    if schedule_type == MULTISTEP:
        schedule: LRScheduler = multistep_schedule(
            optimizer,
            warmup_steps=0 if own_warm_up else warmup_steps,
            updates_per_epoch=updates_per_epoch,
            milestones=milestones,
            gamma=args.lr_gamma,
        )
    elif schedule_type == ONE_CYCLE:
        shape = cast("dict[str, Any]", args.lr_scheduler_kwargs or {})
        one_cycle_factor(0, total_steps=end, **shape)  # of a setting that cannot be
        schedule = LambdaLR(optimizer, partial(one_cycle_factor, total_steps=end, **shape))
    else:
        schedule = get_scheduler(
            schedule_type,
            optimizer=optimizer,
            num_warmup_steps=begin,
            num_training_steps=end,
            scheduler_specific_kwargs=cast("dict[str, Any] | None", args.lr_scheduler_kwargs),
        )
    ends_before = end < num_training_steps
    if own_warm_up or args.lr_by_epoch or ends_before:
        schedule = warmed_up_schedule(
            schedule,
            warmup_steps=warmup_steps,
            start_factor=args.warmup_start_factor,
            multiplies=args.warmup_multiplies,
            hold=hold,
            end=end if ends_before else math.inf,
            warmup_type=args.warmup_type,
            warmup_hold=updates_per_epoch if args.warmup_between_epochs else 1,
        )
    return schedule
