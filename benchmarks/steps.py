"""The time of a training step: ours, stock and the limit in alternating blocks.

Stock and the limit run in a process of their own, because ours changes a setting of its process's memory allocator.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageClassification, Trainer, TrainerCallback

from benchmarks.harness import WARM_UP, Row, Session, alternate, compare_seconds, milliseconds, quiet, synchronize
from benchmarks.images import CIFAR10_MEAN, CIFAR10_STD, hub_copy
from benchmarks.limit import Limit
from benchmarks.ours import TINY_RESNET, fill_caches, prepare_ours
from benchmarks.stock import Schedule, load_stock_dataset, set_stock_transform, stock_trainer, twin

CROP_AND_FLIP: list[Any] = [{"RandomCrop": {"size": 32, "padding": 4}}, "RandomHorizontalFlip"]


class StepClock(TrainerCallback):
    """Record the time after the warm-up and after the last step of a `train()`."""

    def __init__(self) -> None:
        self.stamps: dict[int, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (WARM_UP, state.max_steps):
            synchronize()
            self.stamps[state.global_step] = time.perf_counter()


def seconds_per_step(trainer: Trainer) -> float:
    """Train for `max_steps` and return the mean time of the steps after the warm-up, including data loading."""
    clock = StepClock()
    trainer.add_callback(clock)
    with quiet():
        trainer.train()
    trainer.remove_callback(clock)
    (_, start), (last, end) = sorted(clock.stamps.items())
    return (end - start) / (last - WARM_UP)


class OtherSides:
    """Stock and the limit in a process of their own, which is idle between two measurements."""

    def __init__(self, session: Session, *settings: Any) -> None:
        # A quick run may fork from a server that has imported everything, as the tests do.
        fork, spawn = multiprocessing.get_context("forkserver"), multiprocessing.get_context("spawn")
        context = fork if session.quick else spawn
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_answer, args=(theirs, session, *settings), daemon=True)
        self.process.start()
        self.connection.recv()  # it is ready, and does not load anything while ours is measured

    def __enter__(self) -> OtherSides:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.join()

    def side(self, name: str) -> Callable[[], float]:
        def ask() -> float:
            self.connection.send(name)
            return self.connection.recv()

        return ask


def _answer(
    connection: Connection,
    session: Session,
    path: Path,
    model: Path,
    items: list[Any],
    schedule: Schedule,
    image_size: int,
    steps: int,
) -> None:
    """Answer "stock" and "limit" with the seconds per step of a block. Both start from the weights in `model`."""
    dataset = set_stock_transform(load_stock_dataset(path)["train"], items, CIFAR10_MEAN, CIFAR10_STD)
    stock = stock_trainer(session, AutoModelForImageClassification.from_pretrained(model), schedule, dataset)
    limit = Limit(twin(stock.model), schedule, image_size)
    sides = {"stock": lambda: seconds_per_step(stock), "limit": lambda: limit.seconds_per_step(steps)}
    connection.send("ready")
    while True:
        connection.send(sides[connection.recv()]())


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
    """Compare the steps of a ResNet with random weights on CIFAR-10: padded crop, flip, and Resize above 32 pixels.

    `steps` are timed in each block; `stock` and `limit` are the required ratios.
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
    model = session.folder / "start-of-training"
    with quiet():
        twin(prepared.trainer.model).cpu().save_pretrained(model)
    fill_caches(prepared)
    with OtherSides(session, path, model, items, schedule, image_size, steps) as others:
        samples = alternate(
            {
                "ours": lambda: seconds_per_step(prepared.trainer),
                "stock": others.side("stock"),
                "limit": others.side("limit"),
            },
            session.pairs,
        )
    return compare_seconds(question, samples, lambda value: f"{milliseconds(value)} a step", stock, limit)
