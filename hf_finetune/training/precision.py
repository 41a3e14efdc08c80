"""The precision of training passes: what the recipe says or, for "auto", what the machine is fast in."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from accelerate.utils import gather_object

from hf_finetune.config.recipe import Recipe
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.config.training_keys import AUTO, BF16, FLOAT32, FP16
from hf_finetune.logs import get_logger
from hf_finetune.training.budget import MEASURING
from hf_finetune.training.checkpoints.run_folder import keys_left_to_the_run
from hf_finetune.training.frozen.features import FeatureDataset
from hf_finetune.training.speed import evenly_spaced, pass_seconds
from hf_finetune.training.trainer import ImageClassificationTrainer

logger = get_logger(__name__)

# bf16 must be so many times as fast. Where the gain is less, one run of a command might take it and the next not.
CLEAR_GAIN = 1.2
_MEASURED = 0.02  # of the images that a run shows, at most, are for the measurement
_MOST_IMAGES = 16  # of a pass that is measured: the ratio is the same for more, and a time budget has better uses
_PASSES = 8  # of the measurement: two precisions, once to begin with and three times to be timed
# A CPU that only emulates bf16 takes 8 to 20 times as long as in float32; one that computes it takes 0.5 to 1.5 times.
_EMULATED = 3.0
_TRIAL = 0.02  # seconds, of a convolution that is repeated in each precision
# Floating-point operations of the forward pass that is measured, at least: below, the time is that of Python.
_FEWEST_OPERATIONS = 1e9


def choose_precision(trainer: ImageClassificationTrainer) -> float | None:
    """Set the precision of a new run where its recipe leaves it to the machine, and say which it is. All ranks agree.

    On a GPU it is bf16 where the GPU has it. On a CPU both are measured, unless run or network are so small that there
    is nothing to gain: which are is counted and not measured. Weights, statistics and random numbers stay as they are.

    Args:
        trainer: A trainer with training images, or features, that has passed the sanity check.

    Returns:
        The seconds of a training pass of a whole batch, None where they were not measured.
    """
    args = trainer.args
    if args.precision != AUTO:
        return None
    if trainer.is_sharded:
        chosen, reason, training_pass = FLOAT32, "with FSDP and DeepSpeed, use --precision for another", None
    elif isinstance(trainer.train_dataset, FeatureDataset):
        chosen, reason, training_pass = FLOAT32, "only the head is trained", None
    elif args.device.type == "cpu":
        chosen, reason, training_pass = _measured(trainer)
    else:
        has_it = args.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        has_it = all(gather_object([has_it]) if args.world_size > 1 else [has_it])
        reason = "which this GPU computes fast" if has_it else "there is no GPU that computes bf16 fast"
        chosen, training_pass = BF16 if has_it else FLOAT32, None
    args.use_precision(chosen)
    logger.info(f"Precision: {chosen}; {reason}.")
    return training_pass


def warn_of_slow_bf16(args: FinetuneArguments) -> None:
    """Say where bf16 is stated for a CPU that only emulates it, before any pass is computed in it."""
    if args.precision != BF16 or args.device.type != "cpu":
        return
    slowdown = bf16_slowdown()
    if slowdown > _EMULATED:
        logger.warning(
            f"Warning: precision is bf16, in which this CPU takes about {slowdown:.0f} x as long as in float32; use"
            " --precision float32, or auto."
        )


def bf16_slowdown() -> float:
    """Return how many times as long a small convolution takes on this CPU in bf16 as in float32. It takes 0.1 s.

    One thread computes it: several would wait for each other on a machine that has other work.
    """
    images = torch.ones(4, 64, 14, 14).contiguous(memory_format=torch.channels_last)
    weights = torch.ones(64, 64, 3, 3)
    seconds, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)
    for kind in (torch.float32, torch.bfloat16):
        inputs, kernels = images.to(kind), weights.to(kind)
        times: list[float] = []
        while len(times) < 4 or sum(times) < _TRIAL:  # the first has more to do, and other processes disturb some
            began = time.perf_counter()
            torch.nn.functional.conv2d(inputs, kernels, padding=1)
            times.append(time.perf_counter() - began)
        seconds[kind] = min(times)
    torch.set_num_threads(threads)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def _measured(trainer: ImageClassificationTrainer) -> tuple[str, str, float | None]:
    """Return which precision is faster on a CPU, why it is chosen, and the seconds of a whole batch's training pass."""
    args, images = trainer.args, images_to_measure(trainer)
    if images > 0:  # sooner told than how many operations the network takes
        slowdown = bf16_slowdown()
        slowdown = max(gather_object([slowdown])) if args.world_size > 1 else slowdown
        if slowdown > _EMULATED:
            return FLOAT32, f"this CPU takes {slowdown:.0f} x as long for a convolution in bf16", None
    if images == 0 or images * operations(trainer) < _FEWEST_OPERATIONS:
        return FLOAT32, "the run is too small to measure whether bf16 is faster", None
    limit = math.inf if args.seconds_to_use is None else MEASURING * args.seconds_to_use
    seconds = pass_seconds(trainer, images, (FLOAT32, BF16), limit)
    of_ranks = gather_object([seconds]) if args.world_size > 1 else [seconds]
    slowest = {name: max(of_rank[name] for of_rank in of_ranks) for name in seconds}
    gain = slowest[FLOAT32] / slowest[BF16]
    chosen = BF16 if gain >= CLEAR_GAIN else FLOAT32
    reason = f"as measured, bf16 is {gain:.2f} x as fast as float32" if gain else "bf16 is slower in a first pass"
    return chosen, reason, slowest[chosen] * args.train_batch_size / images


def images_to_measure(trainer: ImageClassificationTrainer) -> int:
    """Return the images of a pass that a run can spare the time to measure, 0 where it can spare none.

    It depends on the run alone, so that a command has the same answer each time.

    Args:
        trainer: A trainer with training images that has passed the sanity check.
    """
    args, dataset = trainer.args, trainer.train_dataset
    most = min(args.train_batch_size, len(dataset), _MOST_IMAGES)
    if args.seconds_to_use is None:
        steps = args.max_steps if args.max_steps > 0 else args.num_train_epochs * len(dataset) / args.global_batch_size
        most = min(most, int(_MEASURED * steps * args.global_batch_size / args.world_size / _PASSES))
    return most if most >= 2 else 0  # BatchNorm has no statistics of one


def operations(trainer: ImageClassificationTrainer) -> float:
    """Return the floating-point operations of the forward pass of an image, which the network alone decides.

    Args:
        trainer: A trainer with training images that has passed the sanity check.
    """
    from torch.utils.flop_counter import FlopCounterMode  # only where a measurement may be worth its time

    inputs = trainer.prepare_batch(evenly_spaced(trainer.train_dataset, 1))
    labels = inputs.pop("labels")
    trainer.model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        trainer.model(**inputs)
    return counter.get_total_flops() / len(labels)


def recorded_precision(recipe: Recipe, precision: str) -> dict[str, Any]:
    """Return the key that the recipe of a run is saved with, so that the run resumes in the same precision.

    Args:
        recipe: The recipe.
        precision: What the run trains in.
    """
    left_to_run = "precision" in keys_left_to_the_run(recipe.values)
    return {"precision": precision} if left_to_run and precision in (FLOAT32, BF16, FP16) else {}
