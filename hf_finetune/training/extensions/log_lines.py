"""What a run shows: a line for every entry of the log, and the progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from hf_finetune.evaluation.metrics import METRICS, Metric
from hf_finetune.evaluation.report import format_log_figures
from hf_finetune.logs import Progress, get_logger, progress_bar
from hf_finetune.training.extensions.base import Extension

logger = get_logger(__name__)


class LogLines(Extension):
    """Logs one readable line for every entry of the log, and shows no progress bar (`disable_tqdm`).

    Attributes:
        metrics: The metrics of the run, which the line after an evaluation shows.
    """

    def __init__(self, metrics: Mapping[str, Metric] = METRICS) -> None:
        super().__init__()
        self.metrics = metrics

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
    """Shows a progress bar, or plain lines in its place where there is no terminal, and the same lines above it."""

    training_bar: Progress[Any] | None  # type: ignore[assignment]  # Transformers declares None alone
    prediction_bar: Progress[Any] | None  # type: ignore[assignment]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar of the training."""
        self.current_step = 0
        if state.is_world_process_zero:
            self.training_bar = progress_bar(total=state.max_steps, desc="training")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step; a run that ends by the clock foretells another end after each."""
        if self.training_bar is not None:
            self.training_bar.total = state.max_steps
        ProgressCallback.on_step_end(self, args, state, control, **kwargs)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Show the bar of an evaluation, and count a batch."""
        if state.is_world_process_zero and self.prediction_bar is None and has_length(eval_dataloader):
            self.prediction_bar = progress_bar(
                total=len(eval_dataloader), desc="evaluating", leave=self.training_bar is None
            )
        ProgressCallback.on_prediction_step(self, args, state, control, eval_dataloader, **kwargs)


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
