"""Keeps the weights of the best evaluations of a run, for a mean of them at its end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.config.training_keys import chosen_by
from hf_finetune.training.extensions.base import Extension

FOLDER = ".best_weights"  # in the folder of the run, until it has its result


class BestWeights(Extension):
    """Writes the weights after each evaluation that is among the best, and removes those that no longer are.

    Files are renamed when they are complete. Which evaluations are the best is in every checkpoint; a resumed run
    writes again what is missing.

    Attributes:
        kept: The optimizer steps of the best evaluations with their figures, from the best to the worst; of equal ones
            the earlier comes first.
    """

    name = "best_weights"

    def __init__(self, count: int, folder: Path) -> None:
        """Create the extension.

        Args:
            count: How many are kept, 2 or more.
            folder: The folder of the run.
        """
        self.count = count
        self.kept: list[tuple[int, float]] = []
        self._folder = folder / FOLDER

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove what an earlier run has left."""
        if state.global_step == 0 and args.should_save:
            self.remove()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the weights where the figure is among the best."""
        value = (metrics or {}).get(f"eval_{chosen_by(args.metric_for_best_model)}")
        if value is None or value != value:  # NaN
            return
        sign = -1 if args.greater_is_better else 1
        known = [(step, figure) for step, figure in self.kept if step != state.global_step]
        ranked = sorted([*known, (state.global_step, value)], key=lambda entry: (sign * entry[1], entry[0]))
        self.kept = ranked[: self.count]
        if args.should_save and (state.global_step, value) in self.kept:
            self._write(state.global_step)
        for step, _ in ranked[self.count :]:
            if args.should_save:
                self._file(step).unlink(missing_ok=True)

    def _file(self, step: int) -> Path:
        return self._folder / f"step-{step}.safetensors"

    def _write(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.loop.model.state_dict().items()
        }
        unfinished = self._folder / "unfinished"
        save_file(weights, unfinished)
        unfinished.replace(self._file(step))

    def weights(self) -> dict[int, dict[str, torch.Tensor]]:
        """Return the kept weights and buffers by step, from the best to the worst, on the CPU; a lost file is left out.

        All ranks call it, and read what the main process has written.
        """
        self.loop.accelerator.wait_for_everyone()
        return {step: load_file(self._file(step)) for step, _ in self.kept if self._file(step).is_file()}

    def remove(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def state_dict(self) -> dict[str, Any]:
        """Return which evaluations are kept."""
        return {"kept": [list(entry) for entry in self.kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a checkpoint's list.

        Args:
            state: What `state_dict` returned.
        """
        self.kept = [(int(step), float(value)) for step, value in state.get("kept", ())]
