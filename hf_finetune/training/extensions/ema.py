"""An average of the weights over the steps of a run, which is what is evaluated, chosen and kept.

The exponential moving average of timm's `--model-ema` and MMEngine's EMAHook: after each optimizer step, every trained
parameter's average moves by 1 - decay towards it. BatchNorm's statistics are those of the last step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from hf_finetune.errors import UserError
from hf_finetune.training.guarded import GuardedTrainer

AVERAGE_FILE = "averaged_weights.safetensors"


class AveragedWeights:
    """The exponential moving average of a model's trained parameters, which begins with them as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.averages = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(list(self.averages.values()), list(self.parameters.values()), 1 - self.decay)

    @torch.no_grad()
    def exchange(self) -> None:
        """Gives the model the averages, and keeps its weights in their place."""
        for name, parameter in self.parameters.items():
            self.averages[name], parameter.data = parameter.data, self.averages[name]

    def save(self, folder: Path) -> None:
        save_file({name: average.contiguous() for name, average in self.averages.items()}, folder / AVERAGE_FILE)

    def load(self, folder: Path) -> None:
        """Raises `UserError` where the checkpoint has no average, or one of other parameters."""
        file = folder / AVERAGE_FILE
        saved = load_file(file) if file.is_file() else {}
        if {name: tensor.shape for name, tensor in saved.items()} != {
            name: average.shape for name, average in self.averages.items()
        }:
            raise UserError(f"{folder} has no average of these weights; use --overwrite_output_dir to start anew.")
        for name, average in self.averages.items():
            average.copy_(saved[name])


class AveragingTrainer(GuardedTrainer):
    """Keeps, with `ema_decay`, an average of the weights: evaluation sees it, checkpoints hold it, the result is it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._average: AveragedWeights | None = None
        self._average_from: Path | None = None
        if self.args.ema_decay is not None:
            if self._is_sharded:
                raise UserError("ema_decay needs whole weights in each process; leave it out with FSDP and DeepSpeed.")
            self.add_callback(_AveragingCallback(self))

    def begin_average(self) -> None:
        self._average = AveragedWeights(self.model, self.args.ema_decay)
        if self._average_from is not None:
            self._average.load(self._average_from)

    def update_average(self) -> None:
        self._average.update()

    def end_average(self) -> None:
        """Leaves the model with its average; where the best checkpoint was loaded, it has that one's already."""
        if self._average is not None:
            self._average.exchange()
            self._average = None

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        self._average.exchange()
        try:
            yield
        finally:
            self._average.exchange()

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        with nullcontext() if self._average is None else self._averaged():
            return super().evaluation_loop(dataloader, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self._average is not None and self.args.should_save:
            self._average.save(Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._average_from = Path(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self._average is not None:
            self._average.load(Path(self.state.best_model_checkpoint))


class _AveragingCallback(TrainerCallback):
    def __init__(self, trainer: AveragingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.begin_average()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.update_average()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.end_average()
