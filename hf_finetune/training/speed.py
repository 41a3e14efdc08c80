"""How fast a run is: the seconds of a training pass, in several precisions in turn, and of an evaluated image."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.training.trainer import ImageClassificationTrainer
from hf_finetune.training.wiring import Batches

_ROUNDS = 3  # at most, after a first one that is not counted
# Times the first call in that round. bfloat16 on a CPU that does not compute it takes ten times as long.
_TOO_SLOW = 1.2


@dataclass(frozen=True)
class Speed:
    """How fast a run is.

    Attributes:
        step: Seconds of an optimizer step, with the loading of its images.
        image: Seconds of an evaluated image.
    """

    step: float
    image: float


def measure(trainer: ImageClassificationTrainer, limit: float, training_pass: float | None) -> Speed:
    """Measure how fast a run is. Weights, statistics and random numbers stay as they are.

    Args:
        trainer: A trainer with training images that has passed the sanity check.
        limit: Seconds that it may take, more or less.
        training_pass: Seconds of a training pass where they are measured already.
    """
    args = trainer.args
    if training_pass is None:
        (training_pass,) = pass_seconds(trainer, args.train_batch_size, [args.precision], limit / 2).values()
    held_out = trainer.train_dataset if trainer.eval_dataset is None else trainer.eval_dataset
    count = min(args.per_device_eval_batch_size, len(held_out))
    with _left_as_it_is(trainer):
        evaluation = _seconds([partial(_evaluate, trainer, held_out, count)], limit / 2)
    steps = args.gradient_accumulation_steps or 1
    return Speed(training_pass * steps, evaluation[0] / count / args.world_size)


def pass_seconds(
    trainer: ImageClassificationTrainer, images: int, precisions: Sequence[str], limit: float
) -> dict[str, float]:
    """Measure a training pass in several precisions, which take turns. Weights, statistics and random numbers stay.

    Args:
        trainer: A trainer with training images that has passed the sanity check.
        images: Of the pass.
        precisions: Choices of the key `precision`.
        limit: Seconds that it may take, more or less.

    Returns:
        The median of the seconds by precision.
    """
    with _left_as_it_is(trainer):
        calls = [partial(_train, trainer, images, precision) for precision in precisions]
        return dict(zip(precisions, _seconds(calls, limit), strict=True))


@contextmanager
def _left_as_it_is(trainer: ImageClassificationTrainer) -> Iterator[None]:
    """Restore weights, statistics, random numbers and the precision after passes through the network."""
    model, args = trainer.model, trainer.args
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    precision = args.precision
    devices = [args.device] if args.device.type == "cuda" else []
    with torch.random.fork_rng(devices), trainer.extensions.loading():
        try:
            yield
        finally:
            args.use_precision(precision)
            model.load_state_dict(kept)
            model.zero_grad(set_to_none=True)


def _train(trainer: ImageClassificationTrainer, count: int, precision: str) -> None:
    """Load a batch of training images and take it through the network and back."""
    trainer.args.use_precision(precision)
    inputs = trainer.prepare_batch(evenly_spaced(trainer.train_dataset, count))
    labels = inputs.pop("labels")
    trainer.model.train()
    with trainer.autocast_smart_context_manager():
        loss = trainer.compute_loss_func(trainer.model(**inputs), labels)
    loss.backward()
    _wait_for_device(trainer)


def _evaluate(trainer: ImageClassificationTrainer, dataset: Batches, count: int) -> None:
    """Load a batch and take it through the network."""
    inputs = trainer.prepare_batch(evenly_spaced(dataset, count))
    inputs.pop("labels")
    trainer.model.eval()
    with torch.no_grad():
        trainer.model(**inputs)
    _wait_for_device(trainer)


def _wait_for_device(trainer: ImageClassificationTrainer) -> None:
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize(trainer.args.device)


def evenly_spaced(dataset: Batches, count: int) -> dict[str, torch.Tensor]:
    """Return a batch of `count` images from all of a dataset, at equal distances; of a stream the first ones."""
    if isinstance(dataset, StreamedBatches):
        return dataset.first(count)
    rows = np.linspace(0, len(dataset) - 1, num=min(count, len(dataset)), dtype=np.int64)
    return dataset.__getitems__(rows.tolist())


def _seconds(calls: Sequence[Callable[[], None]], limit: float) -> list[float]:
    """Return the median seconds of each call, in up to three rounds within a limit, after a first one.

    A call that takes longer than the first one in that round is not repeated: its seconds are infinite. Then there is
    nothing left to compare, and one more round is enough.
    """
    began = time.perf_counter()
    first = [_stopwatch(call) for call in calls]
    kept = [number for number, seconds in enumerate(first) if seconds <= _TOO_SLOW * first[0]]
    most = _ROUNDS if len(kept) == len(calls) else 1
    rounds: list[list[float]] = []
    while not rounds or (len(rounds) < most and time.perf_counter() - began + sum(rounds[-1]) <= limit):
        rounds.append([_stopwatch(calls[number]) for number in kept])
    medians = dict(zip(kept, map(statistics.median, zip(*rounds, strict=True)), strict=True))
    return [medians.get(number, math.inf) for number in range(len(calls))]


def _stopwatch(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
