"""What a training step costs: ours, stock and the limit in alternating blocks of one process."""

from __future__ import annotations

import time
from typing import Any

from transformers import Trainer, TrainerCallback

from benchmarks.harness import WARM_UP, Row, Session, alternate, compare_seconds, milliseconds, quiet, synchronize
from benchmarks.limit import Limit
from benchmarks.ours import TINY_RESNET, fill_caches, prepare_ours
from benchmarks.pictures import CIFAR10_MEAN, CIFAR10_STD, hub_copy
from benchmarks.stock import Schedule, load_stock_dataset, set_stock_transform, stock_trainer, twin

CROP_AND_FLIP = [{"RandomCrop": {"size": 32, "padding": 4}}, "RandomHorizontalFlip"]


class StepClock(TrainerCallback):
    """Takes the time after the warm-up and after the last step of a `train()`."""

    def __init__(self) -> None:
        self.stamps: dict[int, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARM_UP, state.max_steps):
            synchronize()
            self.stamps[state.global_step] = time.perf_counter()


def seconds_per_step(trainer: Trainer) -> float:
    """Trains for `max_steps` and returns the mean of the steps after the warm-up, data loading included."""
    clock = StepClock()
    trainer.add_callback(clock)
    with quiet():
        trainer.train()
    trainer.remove_callback(clock)
    (_, start), (last, end) = sorted(clock.stamps.items())
    return (end - start) / (last - WARM_UP)


def compare_training(
    session: Session,
    question: str,
    model_config: dict[str, Any],
    image_size: int,
    batch: int,
    steps: int,
    stock: float,
    limit: float,
) -> Row:
    """Compares the steps of a ResNet of random weights on CIFAR-10: padded crop, flip, and Resize above 32 pixels.

    `steps` are timed in each block; `stock` and `limit` are the ratios required.
    """
    path = hub_copy(session, "cifar10")
    items = CROP_AND_FLIP if image_size == 32 else [*CROP_AND_FLIP, {"Resize": {"size": image_size}}]
    schedule = Schedule(batch, max_steps=WARM_UP + steps)
    prepared = prepare_ours(
        session,
        schedule,
        dataset="cifar10",
        dataset_path=str(path),
        model_type="resnet",
        model_config=TINY_RESNET if session.quick else model_config,
        image_size=image_size,
        image_mean=CIFAR10_MEAN,
        image_std=CIFAR10_STD,
        train_transforms=items,
    )
    fill_caches(prepared)
    train_dataset = set_stock_transform(load_stock_dataset(path)["train"], items, CIFAR10_MEAN, CIFAR10_STD)
    theirs = stock_trainer(session, twin(prepared.trainer.model), schedule, train_dataset)
    bare = Limit(twin(prepared.trainer.model), schedule, image_size)
    samples = alternate(
        {
            "ours": lambda: seconds_per_step(prepared.trainer),
            "stock": lambda: seconds_per_step(theirs),
            "limit": lambda: bare.seconds_per_step(steps),
        },
        session.pairs,
    )
    return compare_seconds(question, samples, lambda value: f"{milliseconds(value)} a step", stock, limit)
