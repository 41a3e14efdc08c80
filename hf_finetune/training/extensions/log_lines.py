"""What happens beside the optimizer steps — the epoch of the draws, and what is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from hf_finetune.evaluation.metrics import METRICS, Metric
from hf_finetune.evaluation.report import format_log_figures
from hf_finetune.logs import get_logger, progress_bar

logger = get_logger(__name__)


class EpochCallback(TrainerCallback):
    """Tells which epoch begins, counted from 0."""

    def __init__(self, set_epoch: Callable[[int], None]) -> None:
        self.set_epoch = set_epoch

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.set_epoch(int(state.epoch or 0))


class SecondEpochCallback(TrainerCallback):
    """Does some work once, when the first whole pass over the images and its evaluation are over."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.epochs_begun = 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.epochs_begun += 1
        if self.epochs_begun == 2:
            self.work()


class PlainLogLineCallback(TrainerCallback):
    """One readable line for every entry of the log, without the progress bar that `disable_tqdm` turns off."""

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
        if state.is_world_process_zero and (line := format_log_line(logs or {}, state, self.metrics)):
            self.write(line)

    def write(self, line: str) -> None:
        logger.info(line)


class LogLineCallback(PlainLogLineCallback, ProgressCallback):
    """The progress bar, or plain lines in its place where there is no terminal, and the same lines above it."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar of the training."""
        self.current_step = 0
        if state.is_world_process_zero:
            self.training_bar = progress_bar(total=state.max_steps, desc="training")

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Show the bar of an evaluation, and count a batch."""
        if state.is_world_process_zero and self.prediction_bar is None and has_length(eval_dataloader):
            self.prediction_bar = progress_bar(
                total=len(eval_dataloader), desc="evaluating", leave=self.training_bar is None
            )
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)


def format_log_line(logs: Mapping[str, Any], state: TrainerState, metrics: Mapping[str, Metric] = METRICS) -> str:
    """Returns the line for one entry of the log, or an empty string for the summary at the end of training."""
    where = f"epoch {logs.get('epoch', 0):6.2f}  step {state.global_step}/{state.max_steps}"
    if "loss" in logs:
        return f"{where}  loss {logs['loss']:.4f}  learning rate {logs['learning_rate']:.4g}"
    if "eval_loss" in logs:
        return f"{where}  validation: {format_log_figures(logs, metrics)}"
    return ""
