"""What goes wrong in the first pass of a whole batch, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import torch

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError, first_line
from hf_finetune.training.extensions.base import Extension

BATCH_ERRORS = (torch.OutOfMemoryError, IndexError, RuntimeError, TypeError, ValueError)
_PASS = "training_step"  # the Trainer's method for a forward and a backward pass


def tells_of_first_pass(args: FinetuneArguments) -> bool:
    """Return whether the first step says by itself what is wrong with a whole batch.

    It does on one CPU, where a trial of a whole batch would take as long as a third of that step.
    """
    return args.device.type == "cpu" and args.world_size == 1


def batch_error(error: Exception, size: int, network: str, args: FinetuneArguments) -> UserError:
    """Return the one line for one of `BATCH_ERRORS` in a pass of training images.

    Args:
        error: The error.
        size: The number of images.
        network: The name of the network's class.
        args: How the run trains.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return UserError(
            f"A batch of {size:,} images does not fit into the memory of the device; use a smaller"
            " --per_device_train_batch_size: accumulation makes up for it, and global_batch_size stays."
        )
    advice = "leave gradient_checkpointing out, or " if args.gradient_checkpointing else ""
    return UserError(
        f"A training batch of {size:,} images does not go through {network}: {first_line(error)}; {advice}check"
        " image_size, train_transforms, model_config and the batch size."
    )


class FirstPass(Extension):
    """Raises `UserError` for what goes wrong in the first forward and backward pass of a run.

    Args:
        args: How the run trains.
    """

    def __init__(self, args: FinetuneArguments) -> None:
        self._args = args
        self._network = ""  # the name of its class
        self._passed = False

    @contextmanager
    def training(self) -> Iterator[None]:
        """See `Extension.training`."""
        try:
            yield
        except BATCH_ERRORS as error:
            functions = (frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__))
            if self._passed or _PASS not in functions:  # such as that of a callback
                raise
            raise batch_error(error, self._args.train_batch_size, self._network, self._args) from error

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take note of the network."""
        self._network = type(kwargs["model"]).__name__

    def after_pass(self, loss: torch.Tensor, sample_index: torch.Tensor | None) -> None:
        """Take note of the end of the first pass."""
        self._passed = True
