"""A Trainer that minds two kinds of faults, images that do not come and non-finite losses.

A run stops at either with one line that says how it goes on, or does without: `on_bad_image` skip, `on_nan` skip N.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from hf_finetune.data.images.unreadable import BadImages, LoadingError
from hf_finetune.errors import UserError, listing
from hf_finetune.logs import get_logger
from hf_finetune.training.checkpoints.store import list_checkpoints
from hf_finetune.training.loader_errors import loader_errors_in_one_line
from hf_finetune.training.resumable import ResumableTrainer

logger = get_logger(__name__)

_SKIPPED = "skipped_steps"  # in a checkpoint's trainer_state.json, below stateful_callbacks
_NAMED = 128  # images in the message of a run that stops
_STEPS_UNCHECKED = 1000  # at most, so that what is kept of them stays small


class GuardedTrainer(ResumableTrainer):
    """A Trainer that looks after `bad_images` and the losses. `skipped_steps` says which steps have changed nothing."""

    def __init__(self, *args: Any, bad_images: BadImages | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bad_images = bad_images
        self.skipped_steps: list[dict[str, Any]] = []
        # The first optimizer step whose loss was not finite, kept on the device so that no step waits for it.
        self._broken_step = torch.tensor(-1, device=self.args.device)
        # Of each forward pass since the last check: optimizer step, learning rate, sample_index of the images.
        self._unchecked: list[tuple[int, float, torch.Tensor | None]] = []
        if self.args.max_skipped_steps:
            if self._is_sharded:
                raise UserError("on_nan skip does not go with FSDP or DeepSpeed; use --on_nan stop.")
            self.add_callback(_SkipCallback(self))

    # ---- images ----

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Raises `UserError` of one line, in whose end is how to go on, for images that do not come within."""
        try:
            with loader_errors_in_one_line():
                yield
        except LoadingError as error:
            if self.train_dataset is None:
                raise
            saved = list_checkpoints(Path(self.args.output_dir))
            advice = (
                "The checkpoints stay, and the same command resumes the run." if saved else "No checkpoint was due yet."
            )
            raise UserError(f"{error} {advice}") from error

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with self.loading():
            return super().train(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        with self.loading():
            return super().evaluation_loop(*args, **kwargs)

    def unreadable_images(self) -> list[str]:
        """Returns the unreadable images that all processes have met. All of them have to call it."""
        if self.bad_images is None:
            return []
        return sorted(set(self._gathered(self.bad_images.found())))

    def _gathered(self, items: list[str]) -> list[str]:
        return gather_object(items) if self.args.world_size > 1 else items

    # ---- losses ----

    def training_step(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        sample_index = inputs.pop("sample_index", None)
        loss = super().training_step(model, inputs, num_items_in_batch)
        step = self.state.global_step + 1
        broken = ~torch.isfinite(loss) & (self._broken_step < 0)
        self._broken_step = torch.where(broken, step, self._broken_step)
        self._unchecked.append((step, self._get_learning_rate(), sample_index))
        if self.args.max_skipped_steps == 0:  # else each step is looked at when its gradient is whole
            alone_on_cpu = loss.device.type == "cpu" and self.args.world_size == 1
            if alone_on_cpu or len(self._unchecked) > _STEPS_UNCHECKED:
                self._stop_if_broken()
        return loss

    def _stop_if_broken(self) -> None:
        """Raises `UserError`, on all ranks alike, where a loss was not finite since the last check."""
        steps = self._broken_step.reshape(1)
        steps = (steps if self.args.world_size == 1 else self.accelerator.gather(steps)).tolist()
        step = min((step for step in steps if step >= 0), default=None)
        if step is not None:
            raise self._diverged("loss is not finite", step, self._gathered(self._images_of(step)))
        self._unchecked.clear()

    def _diverged(self, what: str, step: int, images: Sequence[str] = ()) -> UserError:
        rate = next((rate for other, rate, _ in self._unchecked if other == step), self._get_learning_rate())
        kept = self.state.best_model_checkpoint or "none was saved yet"
        skipped = f", and {len(self.skipped_steps)} were skipped before" if self.skipped_steps else ""
        advice = "" if self.args.max_skipped_steps else ", or --on_nan skip 10"
        named = f" Images of that step: {listing(images, _NAMED)}." if images else ""
        return UserError(
            f"The {what} at step {step} (epoch {self.state.epoch or 0:.2f}, rate {rate:.3g}){skipped}; use a lower"
            f" --learning_rate or add --warmup_steps{advice}. Last good checkpoint: {kept}.{named}"
        )

    def _images_of(self, step: int) -> list[str]:
        """Returns the names of this process's images of an optimizer step that was not checked yet."""
        batches = [sample_index for other, _, sample_index in self._unchecked if other == step]
        indices = [index for batch in batches if batch is not None for index in batch.tolist()]
        if self.bad_images is None:
            return [f"row {index} of train" for index in indices]
        return [self.bad_images.name("train", index) for index in indices]

    @property
    def steps_without_loss(self) -> int:
        return len(self.skipped_steps)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._stop_if_broken()
        super().log(logs, start_time)

    # ---- skipped steps ----

    def remember_state(self) -> None:
        """Notes, at the beginning of an optimizer step, what a forward pass and a loss change at once."""
        self._buffers_before = [buffer.clone() for buffer in self.model.buffers()]
        self._loss_before = self._tr_loss.clone()

    def skip_if_broken(self) -> None:
        """Takes back an optimizer step that is about to be taken, where its loss or its gradient is not finite.

        Weights, momentum and BatchNorm's statistics stay as they were before the step; the learning rate's schedule
        goes on. All processes do the same. Raises `UserError` where `on_nan` allows no more of it.
        """
        broken = self._broken_step >= 0
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        scaled = self.accelerator.scaler is not None  # then overflow is ordinary, and the scaler skips the step
        if not scaled:
            broken = broken | ~torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        if not self.accelerator.reduce(broken.float(), "sum"):
            self._unchecked.clear()
            return
        step = self.state.global_step + 1
        images = self._gathered(self._images_of(step))
        if len(self.skipped_steps) == self.args.max_skipped_steps:
            raise self._diverged("loss is not finite", step, images)
        rate = self._get_learning_rate()
        self.skipped_steps.append({"step": step, "learning_rate": rate, "images": images})
        logger.warning(
            f"Note: the loss is not finite at step {step} (rate {rate:.3g}); it is skipped,"
            f" {len(self.skipped_steps)} of at most {self.args.max_skipped_steps} steps. Its images:"
            f" {listing(images)}."
        )
        if not scaled:
            for parameter in self.model.parameters():
                parameter.grad = None  # what has no gradient, the optimizer leaves alone
        for buffer, before in zip(self.model.buffers(), self._buffers_before, strict=True):
            buffer.copy_(before)
        # The means of the loss are over the other steps.
        self._tr_loss.copy_(self._loss_before)
        self._globalstep_last_logged += 1
        self._broken_step.fill_(-1)
        self._unchecked.clear()

    # ---- checkpoints ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves which steps were skipped as well, and never puts broken weights in the place of good ones."""
        self._stop_if_broken()
        if not self._is_sharded and not all(weights.isfinite().all() for weights in self.model.parameters()):
            raise self._diverged("weights are not numbers", self.state.global_step)
        self.state.stateful_callbacks[_SKIPPED] = {"steps": self.skipped_steps}
        super()._save_checkpoint(model, trial)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        position = super()._init_training_state(*args, **kwargs)
        self.skipped_steps = list(self.state.stateful_callbacks.get(_SKIPPED, {}).get("steps", []))
        return position


class _SkipCallback(TrainerCallback):
    """Asks at the beginning and before the end of each optimizer step whether it is to be skipped."""

    def __init__(self, trainer: GuardedTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.remember_state()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.skip_if_broken()
