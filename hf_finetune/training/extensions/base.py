"""The protocol between the Trainer and what extends its loop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from accelerate.accelerator import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerCallback, TrainerState


class Loop(Protocol):
    """What an extension may ask of the training loop. The Trainer is one; a test passes a stub."""

    @property
    def model(self) -> nn.Module:
        """The network that is trained, without the wrappers of Accelerate."""

    @property
    def accelerator(self) -> Accelerator:
        """What knows the device and talks to the other ranks."""

    @property
    def state(self) -> TrainerState:
        """Position and history of the run."""

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed divides the weights over the ranks."""

    def learning_rate(self) -> float:
        """Return the current learning rate of the first parameter group."""

    def loss_since_log(self) -> torch.Tensor:
        """Return a copy of the sum of this rank's losses since the last log line, float32, a scalar."""

    def leave_out_step(self, loss_since_log: torch.Tensor) -> None:
        """Take the current optimizer step out of the mean losses.

        Args:
            loss_since_log: What `loss_since_log` returned at the beginning of the step.
        """

    def set_epoch(self, epoch: int) -> None:
        """Tell the random draws and the order of the images which epoch begins, counted from 0."""

    def set_training_size(self, size: int | None) -> None:
        """Set the shorter side of training images in pixels, from the next batch on; None leaves them as they are."""


class Extension(TrainerCallback):
    """A part of the training loop that can be added to it or left out.

    An extension is a callback of Transformers with the hooks that Transformers lacks. It overrides those that it needs.
    The Trainer runs a list of extensions in order and knows none of them by name; no extension knows another.

    Attributes:
        name: The key of the extension's state in a checkpoint; empty where it keeps no state.
        worker_init: Called in each of a loader's worker processes when it starts; a function of a module, which can be
            pickled.
        loop: The training loop; there after `attach`.
    """

    name: str = ""
    worker_init: Callable[[], None] | None = None
    loop: Loop

    def attach(self, loop: Loop) -> None:
        """Take the loop that the extension works in. It is called once, before any other hook."""
        self.loop = loop

    # ---- state in checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: tensors, and values that JSON has. All ranks call it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint, after the weights are loaded and before the first step.

        Args:
            state: What `state_dict` returned; empty where the checkpoint has nothing under `name`.

        Raises:
            UserError: The run cannot resume from this state.
        """

    def load_best(self, state: Mapping[str, Any]) -> None:
        """Restore what belongs to the weights of the best checkpoint, which were loaded at the end of training.

        Args:
            state: As `load_state_dict` is given it.
        """

    # ---- around parts of a run ----

    def training(self) -> AbstractContextManager[None]:
        """Return a context that surrounds the training."""
        return nullcontext()

    def loading(self) -> AbstractContextManager[None]:
        """Return a context that surrounds everything that reads images; contexts of this kind may be nested."""
        return nullcontext()

    def evaluating(self) -> AbstractContextManager[None]:
        """Return a context that surrounds an evaluation."""
        return nullcontext()

    # ---- what an extension brings along ----

    def schedule(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return a schedule that takes the place of the recipe's, None to leave that."""
        return None

    # ---- events that Transformers has no callback for ----

    def after_pass(self, loss: torch.Tensor, sample_index: torch.Tensor | None) -> None:
        """Look at a forward and backward pass of training.

        Args:
            loss: This rank's part of the global batch's mean loss, detached, float32, a scalar on the device.
            sample_index: Row of each image in its dataset, int64 (batch,), on the CPU; None where it is not known.
        """

    def before_log(self) -> None:
        """Look at the run before an entry of the log is written. All ranks call it."""

    def before_save(self) -> None:
        """Look at the run before a checkpoint is written. All ranks call it."""

    def stop_requested(self) -> signal.Signals | None:
        """Return the signal for which the run must save and end after this step. All ranks agree on whether."""
        return None

    # ---- what a run reports ----

    @property
    def skipped_steps(self) -> list[dict[str, Any]]:
        """The optimizer steps that changed nothing: `step`, `learning_rate` and the names of their `images`."""
        return []

    def unreadable_images(self) -> list[str]:
        """Return this rank's unreadable images, each with the reason."""
        return []


def gather_names(names: list[str], accelerator: Accelerator) -> list[str]:
    """Return the names of all ranks, in the order of the ranks. All ranks call it."""
    gathered: list[str] = gather_object(names) if accelerator.num_processes > 1 else names
    return gathered
