"""What a run does with losses that are NaN or Inf: it stops with one line, or leaves out their steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.errors import UserError, listing
from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.base import Extension, Loop, gather_names

logger = get_logger(__name__)

_NAMED = 128  # images in the message of a run that stops
_PASSES_UNCHECKED = 1000  # at most, so that what is kept of them stays small


class NonFiniteLosses(Extension):
    """Ends a run at a non-finite loss, or skips up to `max_skipped` optimizer steps that have one.

    Of a skipped step nothing stays: weights, momentum and BatchNorm's statistics are as they were before it. The
    learning rate's schedule advances. All ranks skip the same steps.
    """

    name = "non_finite_losses"

    def __init__(self, max_skipped: int, image_name: Callable[[int], str]) -> None:
        """Create the extension.

        Args:
            max_skipped: How many optimizer steps a run may skip; with 0 the first non-finite loss ends it.
            image_name: Returns the name of a training image from its row in the dataset.
        """
        self.max_skipped = max_skipped
        self.image_name = image_name
        self._skipped: list[dict[str, Any]] = []
        # Of each forward pass since the last check: optimizer step, learning rate, rows of the images.
        self._unchecked: list[tuple[int, float, torch.Tensor | None]] = []

    def attach(self, loop: Loop) -> None:
        """Take the loop that the extension works in."""
        super().attach(loop)
        # The first optimizer step whose loss was not finite. It stays on the device, so that no step waits for it.
        self._bad_step = torch.tensor(-1, device=loop.accelerator.device)

    @property
    def skipped_steps(self) -> list[dict[str, Any]]:
        """The optimizer steps that changed nothing: `step`, `learning_rate` and the names of their `images`."""
        return self._skipped

    # ---- looking at losses ----

    def after_pass(self, loss: torch.Tensor, sample_index: torch.Tensor | None) -> None:
        """Note whether the loss of a forward pass is finite, and check it where that makes nothing wait."""
        step = self.loop.state.global_step + 1
        bad = ~torch.isfinite(loss) & (self._bad_step < 0)
        self._bad_step = torch.where(bad, step, self._bad_step)
        self._unchecked.append((step, self.loop.learning_rate(), sample_index))
        if self.max_skipped == 0:  # otherwise each step is checked when its gradient is complete
            alone_on_cpu = loss.device.type == "cpu" and self.loop.accelerator.num_processes == 1
            if alone_on_cpu or len(self._unchecked) > _PASSES_UNCHECKED:
                self._stop_if_bad()

    def before_log(self) -> None:
        """Raise `UserError` where a loss was not finite since the last check."""
        self._stop_if_bad()

    def before_save(self) -> None:
        """Raise `UserError` where a checkpoint of broken weights would take the place of a good one."""
        self._stop_if_bad()
        finite = self.loop.is_sharded or all(bool(weight.isfinite().all()) for weight in self.loop.model.parameters())
        if not finite:
            raise self._error("weights are not finite", self.loop.state.global_step)

    def _stop_if_bad(self) -> None:
        """Raise `UserError`, on all ranks alike, where a loss was not finite since the last check."""
        accelerator, steps = self.loop.accelerator, self._bad_step.reshape(1)
        gathered = steps if accelerator.num_processes == 1 else accelerator.gather(steps)
        step = min((step for step in gathered.tolist() if step >= 0), default=None)
        if step is not None:
            raise self._error("loss is not finite", step, gather_names(self._images_of(step), accelerator))
        self._unchecked.clear()

    def _error(self, what: str, step: int, images: Sequence[str] = ()) -> UserError:
        state = self.loop.state
        rate = next((rate for other, rate, _ in self._unchecked if other == step), None)
        rate = self.loop.learning_rate() if rate is None else rate
        kept = state.best_model_checkpoint or "none was saved yet"
        skipped = f", and {len(self._skipped)} were skipped before" if self._skipped else ""
        advice = "" if self.max_skipped else ", or --on_nan skip 10"
        named = f" Images of that step: {listing(images, _NAMED)}." if images else ""
        return UserError(
            f"The {what} at step {step} (epoch {state.epoch or 0:.2f}, rate {rate:.3g}){skipped}; use a lower"
            f" --learning_rate or add --warmup_steps{advice}. Last good checkpoint: {kept}.{named}"
        )

    def _images_of(self, step: int) -> list[str]:
        """Return the names of this rank's images of an optimizer step that was not checked yet."""
        batches = [sample_index for other, _, sample_index in self._unchecked if other == step]
        return [self.image_name(row) for rows in batches if rows is not None for row in rows.tolist()]

    # ---- skipping steps ----

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember what a forward pass changes at once: BatchNorm's statistics and the running loss."""
        if self.max_skipped:
            self._buffers_before = [buffer.clone() for buffer in self.loop.model.buffers()]
            self._loss_before = self.loop.loss_since_log()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Skip the optimizer step that comes next where its loss or its gradient is not finite.

        Raises:
            UserError: `max_skipped` steps were skipped already.
        """
        if not self.max_skipped:
            return
        accelerator, bad = self.loop.accelerator, self._bad_step >= 0
        gradients = [weight.grad for weight in self.loop.model.parameters() if weight.grad is not None]
        scaled = accelerator.scaler is not None  # then overflow is ordinary, and the scaler skips the step
        if not scaled:
            bad = bad | ~torch.isfinite(torch.nn.utils.get_total_norm(gradients))
        if accelerator.reduce(bad.float(), "sum"):
            self._note_skipped(state.global_step + 1)
            self._undo_step(scaled)
        self._unchecked.clear()

    def _note_skipped(self, step: int) -> None:
        images = gather_names(self._images_of(step), self.loop.accelerator)
        if len(self._skipped) == self.max_skipped:
            raise self._error("loss is not finite", step, images)
        rate = self.loop.learning_rate()
        self._skipped.append({"step": step, "learning_rate": rate, "images": images})
        logger.warning(
            f"Note: the loss is not finite at step {step} (rate {rate:.3g}); it is skipped,"
            f" {len(self._skipped)} of at most {self.max_skipped} steps. Its images: {listing(images)}."
        )

    def _undo_step(self, scaled: bool) -> None:
        if not scaled:
            for weight in self.loop.model.parameters():
                weight.grad = None  # an optimizer leaves alone what has no gradient
        for buffer, before in zip(self.loop.model.buffers(), self._buffers_before, strict=True):
            buffer.copy_(before)
        self.loop.leave_out_step(self._loss_before)
        self._bad_step.fill_(-1)

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Return the skipped steps."""
        return {"skipped_steps": self._skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the count of skipped steps.

        Args:
            state: The skipped steps of the checkpoint.
        """
        self._skipped = list(state.get("skipped_steps", []))
