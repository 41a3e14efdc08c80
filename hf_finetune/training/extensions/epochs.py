"""What depends on which epoch begins, or on the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.training.extensions.base import Extension


class EpochOfDraws(Extension):
    """Tells the random draws and the order of the images which epoch begins.

    Accelerate does not reach them in all configurations: with DistributedDataParallel, and after a resume.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the epoch, counted from 0."""
        self.loop.set_epoch(int(state.epoch or 0))


class FirstStepCallback(TrainerCallback):
    """Does some work once, when the first optimizer step of this process is over."""

    def __init__(self, work: Callable[[], None]) -> None:
        """Create the callback.

        Args:
            work: What is done.
        """
        self.work: Callable[[], None] | None = work

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Do the work after the first step."""
        work, self.work = self.work, None
        if work is not None:
            work()


class SecondEpochCallback(TrainerCallback):
    """Does some work once, when the first whole pass over the images and its evaluation are over."""

    def __init__(self, work: Callable[[], None]) -> None:
        """Create the callback.

        Args:
            work: What is done when the second epoch begins.
        """
        self.work = work
        self.epochs_begun = 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the epochs that this process begins."""
        self.epochs_begun += 1
        if self.epochs_begun == 2:
            self.work()
