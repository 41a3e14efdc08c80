"""The network as it was before the training, with a probed head: kept until its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.models.adapters import adapted_names, has_adapters
from hf_finetune.training.extensions.base import Extension


class ProbedStart(Extension):
    """Keeps the weights of the start, also in checkpoints; of a network with adapters what they and its head hold.

    Attributes:
        watches: Whether a new run keeps them, because its head was probed.
        weights: The tensors by name; empty where nothing is kept.
    """

    name = "probed_start"

    def __init__(self) -> None:
        self.watches = False
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the weights of a run that begins."""
        if self.watches and state.global_step == 0:
            tensors = self.loop.model.state_dict()
            names = adapted_names(self.loop.model) if has_adapters(self.loop.model) else tensors
            self.weights = {name: tensors[name].cpu().clone() for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by their names."""
        return self.weights

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep what a checkpoint has.

        Args:
            state: As `state_dict` returned it.
        """
        self.weights = dict(state)
