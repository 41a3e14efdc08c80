"""What a run shows: a line for every entry of the log, and the progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.evaluation.metrics import METRICS, Metric
from hf_finetune.evaluation.report import format_log_figures
from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.base import Extension

logger = get_logger(__name__)


class LogLines(Extension):
    """Logs one readable line for every entry of the log, and shows no progress bar (`disable_tqdm`)."""

    metrics: Mapping[str, Metric] = METRICS
    """The metrics of the run, which the line after an evaluation shows."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log the line of an entry in the main process."""
        if state.is_world_process_zero and (line := format_log_line(logs or {}, state, self.metrics)):
            logger.info(line)


class LogLinesAndBar(LogLines, ProgressCallback):
    """Shows the progress bar of Transformers, and the same lines above it."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Name the bar of the training."""
        ProgressCallback.on_train_begin(self, args, state, control, **kwargs)  # type: ignore[no-untyped-call]
        if self.training_bar is not None:
            self.training_bar.set_description("training")

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Name the bar of an evaluation."""
        ProgressCallback.on_prediction_step(self, args, state, control, eval_dataloader, **kwargs)  # type: ignore[no-untyped-call]
        if self.prediction_bar is not None:
            self.prediction_bar.set_description("evaluating", refresh=False)


def format_log_line(logs: Mapping[str, Any], state: TrainerState, metrics: Mapping[str, Metric] = METRICS) -> str:
    """Return the line for one entry of the log.

    Args:
        logs: The entry: the mean training loss in nats and the learning rate, or the figures of an evaluation.
        state: Position of the run.
        metrics: The metrics of the run.

    Returns:
        The line; an empty string for the summary at the end of training.
    """
    where = f"epoch {logs.get('epoch', 0):6.2f}  step {state.global_step}/{state.max_steps}"
    if "loss" in logs:
        return f"{where}  loss {logs['loss']:.4f}  learning rate {logs['learning_rate']:.4g}"
    if "eval_loss" in logs:
        return f"{where}  validation: {format_log_figures(logs, metrics)}"
    return ""
