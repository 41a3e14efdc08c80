"""Draws what changes over the steps of a run before it begins: rates, momentum, averages, freezing, image sizes."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers.optimization import GreedyLR

from hf_finetune.config.durations import format_duration
from hf_finetune.config.recipe import Recipe
from hf_finetune.config.training import BY_METRIC, FinetuneArguments
from hf_finetune.config.training_keys import plain_word
from hf_finetune.errors import UserError
from hf_finetune.evaluation.report import to_json
from hf_finetune.interrupts import leave_if_interrupted
from hf_finetune.jobs.preview import check_alone, planned, plot_path
from hf_finetune.jobs.schedule_result import Floats, GroupSchedule, ScheduleResult
from hf_finetune.logs import get_logger, progress_bar, write_result
from hf_finetune.models.head import head_parameter_names
from hf_finetune.training.assembly import assemble
from hf_finetune.training.extensions.ema import AveragedWeights, warmed_up
from hf_finetune.training.extensions.frozen_start import FrozenStart
from hf_finetune.training.extensions.image_sizes import ImageSizes, size_at
from hf_finetune.training.extensions.time_budget import Budget, TimeBudget
from hf_finetune.training.given import Given
from hf_finetune.training.sanity_check import check_optimizer, settle_lone_image
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

_SHARES = 200  # of a time budget


def show_schedule(
    recipe: Recipe, output: str | Path | None = None, show: str | None = None, given: Given | None = None
) -> ScheduleResult:
    """Draw the schedule of a run into a PNG file, and return it. Nothing is trained.

    Optimizer and schedule are those that the training makes, and the schedule is taken through all its steps.

    Args:
        recipe: The recipe of the run.
        output: The PNG file. Absent: schedule.png, or schedule-2.png and so on, none of which is overwritten.
        show: "text" or "json" to write it to standard output, None for neither.
        given: What a Python caller gave as objects.

    Raises:
        UserError: For whatever the caller can fix.
    """
    path = plot_path(output, "schedule.png")
    with planned(recipe, given or Given(), {"decode_cache": "never"}) as plan:
        check_alone(plan.args, "schedule")
        trainer = assemble(plan).trainer
        if not plan.args.takes_steps:
            raise UserError("num_train_epochs is 0, so the run takes no step; use --num_train_epochs 1 or more.")
        settle_lone_image(trainer)
        check_optimizer(trainer)
        result = foretell(trainer)
        trainer.end()
    from hf_finetune.evaluation.schedule_plot import plot_schedule  # matplotlib: not before it is due

    plot_schedule(
        result.points,
        result.panels(),
        result.heading(),
        path,
        None if result.by_time else result.steps_per_epoch,
        result.head_alone_epochs * result.steps_per_epoch,
    )
    if show is not None:
        write_result(to_json(result.as_mapping()).rstrip("\n") if show == "json" else result.text())
    logger.info(f"The plot is {path}.")
    return result


def foretell(trainer: ImageClassificationTrainer) -> ScheduleResult:
    """Return what changes over the steps of a run.

    Args:
        trainer: A trainer with training images, which is not used again: its schedule runs to the end here.
    """
    args = trainer.args
    epochs, per_epoch, *_, steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    optimizer = trainer.create_optimizer()
    clock = trainer.extensions.find(TimeBudget)
    if clock is None:
        scheduler = trainer.create_scheduler(steps, optimizer)
        points = np.arange(1, steps + 1, dtype=np.float64)
        rates, momentum = _followed(optimizer, _steps_of(scheduler), steps)
    else:
        points = np.linspace(0, 1, _SHARES + 1)
        rates, momentum = _followed(optimizer, _clock_of(trainer, clock, optimizer, points), len(points))
    average, frozen = trainer.extensions.find(AveragedWeights), trainer.extensions.find(FrozenStart)
    sizes = trainer.extensions.find(ImageSizes)
    by_step = clock is None
    return ScheduleResult(
        by_time=not by_step,
        points=points,
        groups=_groups(trainer, optimizer, rates),
        momentum=momentum,
        ema_decay=np.array([warmed_up(average.decay, int(step)) for step in points]) if average and by_step else None,
        image_sizes=_sizes(sizes, points, per_epoch, epochs) if sizes and by_step else None,
        head_alone_epochs=frozen.epochs if frozen else 0,
        steps_per_epoch=per_epoch,
        epochs=steps / per_epoch if by_step else None,
        images=len(trainer.train_dataset),
        batch=args.global_batch_size,
        schedule=_name(args, clock),
        notes=tuple(_notes(args, None if clock is None else clock.budget.seconds, average)),
    )


def _steps_of(scheduler: LRScheduler) -> Callable[[int], None]:
    """Return what takes a schedule to the next step; one that goes by a metric stays where it is."""

    def advance(_: int) -> None:
        if not isinstance(scheduler, (ReduceLROnPlateau, GreedyLR)):
            scheduler.step()

    return advance


def _clock_of(
    trainer: ImageClassificationTrainer, clock: TimeBudget, optimizer: Optimizer, shares: Floats
) -> Callable[[int], None]:
    """Return what takes the schedule of a time budget to its next share, by a clock that is set by hand."""
    spent = 0.0
    clock.budget = Budget(clock.budget.seconds, began=0.0, now=lambda: spent)
    clock.on_train_begin(trainer.args, trainer.state, trainer.control)
    scheduler = trainer.create_scheduler(trainer.args.max_steps, optimizer)

    def advance(place: int) -> None:
        nonlocal spent
        if place + 1 < len(shares):
            spent = float(shares[place + 1]) * clock.budget.seconds
            scheduler.step()

    return advance


def _followed(optimizer: Optimizer, advance: Callable[[int], None], count: int) -> tuple[Floats, Floats | None]:
    """Return the learning rate of each group at each point, (points, groups), and the momentum of the first."""
    groups = optimizer.param_groups
    rates, momenta = np.empty((count, len(groups))), np.empty(count)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")  # there are no gradients
        for place in progress_bar(range(count), desc="schedule", unit="step", delay=2):
            if place % 1000 == 0:
                leave_if_interrupted()
            rates[place] = [float(group["lr"]) for group in groups]
            momenta[place] = _momentum(groups[0])
            advance(place)
    return rates, None if np.isnan(momenta).all() else momenta


def _momentum(group: dict[str, Any]) -> float:
    if "momentum" in group:
        return float(group["momentum"])
    return float(group.get("betas", (math.nan,))[0])


def _groups(trainer: ImageClassificationTrainer, optimizer: Optimizer, rates: Floats) -> tuple[GroupSchedule, ...]:
    """Return the groups of the optimizer, of which those with the same rates are one."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    head = head_parameter_names(trainer.model)
    together: dict[bytes, list[int]] = {}
    for number, column in enumerate(rates.T):
        together.setdefault(column.tobytes(), []).append(number)
    found = []
    for numbers in together.values():
        groups = [optimizer.param_groups[number] for number in numbers]
        parameters = [parameter for group in groups for parameter in group["params"]]
        own = [names[id(parameter)] for parameter in parameters]
        found.append(
            GroupSchedule(
                "all" if len(together) == 1 else _part(own, head),
                len(parameters),
                sum(parameter.numel() for parameter in parameters),
                tuple(sorted({float(group.get("weight_decay", 0)) for group in groups})),
                rates[:, numbers[0]],
            )
        )
    return tuple(found)


def _part(names: Sequence[str], head: set[str]) -> str:
    """Return what the parameters of a group are in common."""
    if head.issuperset(names):
        return "head"
    levels = zip(*(name.split(".") for name in names), strict=False)  # down to the shortest name
    shared = itertools.takewhile(lambda words: len(set(words)) == 1, levels)
    return ".".join(words[0] for words in shared) or "several parts"


def _sizes(extension: ImageSizes, points: Floats, per_epoch: int, epochs: int) -> Floats:
    of_epoch = [size_at(extension.sizes, epoch / epochs) for epoch in range(epochs)]
    return np.array([math.nan if (size := of_epoch[(int(step) - 1) // per_epoch]) is None else size for step in points])


def _name(args: FinetuneArguments, clock: TimeBudget | None) -> str:
    if clock is not None:
        return f"warm-up and half a cosine, time budget {format_duration(clock.budget.seconds)},"
    return plain_word(args.lr_scheduler_type)


def _notes(args: FinetuneArguments, seconds: float | None, average: AveragedWeights | None) -> list[str]:
    notes = []
    schedule = plain_word(args.lr_scheduler_type)
    if seconds is None and schedule in BY_METRIC:
        notes.append(f"Note: {schedule} goes by a metric of validation, so only its first rate is known.")
    if seconds is not None:
        notes.append("Note: how many steps fit into the time is measured when the run begins.")
    if seconds is not None and average is not None:
        notes.append(f"Note: ema_decay rises to {average.decay:g} by steps, whose number is not known before.")
    if args.early_stopping_patience is not None:
        notes.append("Note: early_stopping_patience may end the run earlier.")
    if args.freeze_epochs is not None:
        notes.append(f"The head alone is trained until epoch {args.freeze_epochs}, everything from there on.")
    return notes
