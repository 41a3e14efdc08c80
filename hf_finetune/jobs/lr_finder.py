"""Looks for a learning rate: a short training whose rate rises until the loss diverges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_finetune.config.recipe import Recipe
from hf_finetune.errors import UserError
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.jobs.preview import check_alone, planned, plot_path
from hf_finetune.logs import get_logger, progress_bar
from hf_finetune.training.given import Given
from hf_finetune.training.run import prepare
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100
_SMOOTHING = 0.9  # of the loss, per step
_DIVERGED = 4.0  # times the least loss, as in fastai
_NOT_HERE = {"early_stopping_patience": None, "freeze_epochs": None, "time_budget": None, "best_k_soup": None}


@dataclass(frozen=True)
class RateSearch:
    """The losses of a search.

    Attributes:
        rates: The learning rate of each step, ascending.
        losses: The mean loss of each step's images in nats, before the step; the last may be the one that diverged.
        smoothed: Their moving average.
        suggestion: The suggested learning rate, None where the loss never fell.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None


def find_learning_rate(
    recipe: Recipe,
    output: str | Path | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> RateSearch:
    """Train with a rising learning rate, draw the loss into a PNG file, and suggest a rate. No model is kept.

    Args:
        recipe: How the run would be trained. Its schedule is not used.
        output: The PNG file. Absent: lr_finder.png, or lr_finder-2.png and so on, none of which is overwritten.
        lowest: The rate of the first step.
        highest: The rate of the last step.
        steps: Optimizer steps, at most: the search ends where the loss diverges.

    Raises:
        UserError: For whatever the caller can fix.
    """
    if not 0 < lowest < highest or steps < 10:
        raise UserError(
            f"The search goes from {lowest:g} to {highest:g} in {steps} steps; use a --highest above --lowest, and"
            " --steps 10 or more."
        )
    path = plot_path(output, "lr_finder.png")
    with planned(recipe, Given(), _NOT_HERE) as plan:
        check_alone(plan.args, "lr-finder")
        trainer = prepare(plan).trainer
        args = trainer.args
        if args.fp16:
            raise UserError(
                "lr-finder does not go with fp16, whose scale of the loss follows it; use --precision bf16 or float32."
            )
        found = search(trainer, np.geomspace(lowest, highest, steps).tolist())
        trainer.end()
    from hf_finetune.evaluation.plots import plot_rate_search  # matplotlib: not before it is due

    plot_rate_search(found.rates, found.losses, found.smoothed, path, found.suggestion, args.learning_rate)
    logger.info(f"{_in_words(found, args.learning_rate, args.global_batch_size)} The plot is {path}.")
    return found


def search(trainer: ImageClassificationTrainer, rates: Sequence[float]) -> RateSearch:
    """Train one step at each rate, until the loss diverges, and return the losses.

    This is the range test of Smith, "Cyclical learning rates" (arXiv 1506.01186), as fastai's `lr_find` does it. Groups
    with a rate of their own keep its ratio to `learning_rate`.

    Args:
        trainer: A trainer with training images, which is not used again: its weights change.
        rates: The rates, ascending.
    """
    model, args = trainer.model, trainer.args
    optimizer = trainer.create_optimizer()
    ratios = [group["lr"] / args.learning_rate for group in optimizer.param_groups]
    model.train()
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    batches = _batches(trainer)
    for step, rate in enumerate(progress_bar(rates, desc="searching"), 1):
        leave_if_interrupted()
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = rate * ratio
        losses.append(_gradients_of(trainer, list(itertools.islice(batches, args.gradient_accumulation_steps))))
        average = _SMOOTHING * average + (1 - _SMOOTHING) * losses[-1]
        smoothed.append(average / (1 - _SMOOTHING**step))  # without the pull of its start at 0
        if not math.isfinite(losses[-1]) or smoothed[-1] > _DIVERGED * min(smoothed):
            break
        if args.max_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    finite = [number for number, loss in enumerate(losses) if math.isfinite(loss)]
    kept = len(finite)
    return RateSearch(list(rates[:kept]), losses[:kept], smoothed[:kept], suggest(rates[:kept], smoothed[:kept]))


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate in the middle of the longest fall of the loss; None where it does not fall by a tenth.

    The fall is the longest run of steps, not necessarily adjacent, of which each has a lower loss than the one before:
    the idea of fastai's `valley`. Its middle lies before the flat bottom, where the loss is about to rise.

    Args:
        rates: The rates, ascending.
        losses: The smoothed losses.
    """
    if not losses:
        return None
    lengths, before = [1] * len(losses), [-1] * len(losses)
    for end in range(len(losses)):
        for start in range(end):
            if losses[start] > losses[end] and lengths[start] + 1 > lengths[end]:
                lengths[end], before[end] = lengths[start] + 1, start
    last = int(np.argmax(lengths))
    fall = [last]
    while before[fall[-1]] >= 0:
        fall.append(before[fall[-1]])
    if losses[last] > 0.9 * losses[fall[-1]]:
        return None
    # Most of a fall is the flat part at rates too low to matter: the middle is that of the depth, not of the steps.
    half = (losses[fall[-1]] + losses[last]) / 2
    return float(rates[next(step for step in reversed(fall) if losses[step] <= half)])


def _batches(trainer: ImageClassificationTrainer) -> Iterator[dict[str, torch.Tensor]]:
    for epoch in itertools.count():
        trainer.set_epoch(epoch)
        yield from trainer.get_train_dataloader()


def _gradients_of(trainer: ImageClassificationTrainer, batches: list[dict[str, torch.Tensor]]) -> float:
    """Compute the gradients of a global batch, and return its mean loss."""
    count = sum(batch["labels"].numel() for batch in batches)
    total = 0.0
    for batch in batches:
        inputs: dict[str, Any] = trainer.prepare_batch(batch)
        labels = inputs.pop("labels")
        with trainer.autocast_smart_context_manager():
            loss = trainer.compute_loss_func(trainer.model(**inputs), labels, count)
        loss.backward()
        total += float(loss.detach())
    return total


def _in_words(found: RateSearch, current: float, batch: int) -> str:
    steps = len(found.rates)
    if found.suggestion is None:
        return (
            f"No learning rate is suggested: in {steps} steps the loss did not fall by a tenth. Use more --steps, a"
            " smaller --global_batch_size, or --head_init random."
        )
    lowest = found.rates[int(np.argmin(found.smoothed))]
    return (
        f"Suggested: --learning_rate {found.suggestion:.2g}, for batches of {batch:,}, where the loss has fallen"
        f" halfway; it is least at {lowest:.2g}. The recipe has {current:g}."
    )
