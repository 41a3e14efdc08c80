"""Ends a run whose validation figure no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.config.training_keys import chosen_by
from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.base import Extension

logger = get_logger(__name__)


class EarlyStopping(Extension):
    """Counts the evaluations since the best one, and ends the training after `patience` of them.

    A checkpoint that the same evaluation asks for is saved first. The count is in every checkpoint, so a run that
    resumes stops where it would have stopped, and does not train on after it has.
    """

    name = "early_stopping"

    def __init__(self, patience: int) -> None:
        """Create the extension.

        Args:
            patience: Evaluations without a better figure after which the run ends, 1 or more.
        """
        self.patience = patience
        self._best: float | None = None
        self._best_step = 0
        self._since = 0

    @property
    def _is_over(self) -> bool:
        return self._since >= self.patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop at once where the run was stopped early before it was interrupted."""
        control.should_training_stop = control.should_training_stop or self._is_over

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compare the figure with the best one, and ask for the end where it was best too long ago."""
        value = (metrics or {}).get(f"eval_{chosen_by(args.metric_for_best_model)}")
        if value is None or self._is_over:
            return
        greater = bool(args.greater_is_better)
        if self._best is None or (value > self._best if greater else value < self._best):
            self._best, self._best_step, self._since = value, state.global_step, 0
        else:  # NaN is never better
            self._since += 1
        control.should_training_stop = control.should_training_stop or self._is_over

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log that the run ended early, and what of its schedule is left out."""
        if self._is_over and state.is_world_process_zero:
            metric = chosen_by(args.metric_for_best_model)
            logger.info(
                f"Stopped early at step {state.global_step:,} of {state.max_steps:,}: {self.patience} evaluation(s)"
                f" without a better {metric} than {self._best:.4g} at step {self._best_step:,}. The learning"
                " rate's schedule, which was made for all steps, is cut there."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure, its step, and the evaluations since."""
        return {"best": self._best, "best_step": self._best_step, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue to count where a checkpoint stopped; one without a count begins anew.

        Args:
            state: What `state_dict` returned.
        """
        self._best, self._best_step = state.get("best"), state.get("best_step", 0)
        self._since = state.get("since", 0)
