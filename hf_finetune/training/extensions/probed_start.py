"""The network as it was before the training, with a probed head: kept, and taken where the training made it worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.training.extensions.base import Extension


class ProbedStart(Extension):
    """Keeps the weights of the start and their figures on validation, also in checkpoints.

    Attributes:
        watches: Whether the evaluation before the first step (`eval_on_start`) is one of a probed head.
        score: The metric that decides, None where nothing is kept.
        loss: The cross entropy in nats.
    """

    name = "probed_start"

    def __init__(self, metric: str) -> None:
        """Create the extension.

        Args:
            metric: The metric of validation that decides, such as accuracy.
        """
        self.metric = metric
        self.watches = False
        self.score: float | None = None
        self.loss = float("nan")
        self._weights: dict[str, torch.Tensor] = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the weights that are evaluated before the first step."""
        if self.watches and state.global_step == 0 and metrics:
            self.score, self.loss = metrics[f"eval_{self.metric}"], metrics["eval_loss"]
            self._weights = {name: tensor.cpu().clone() for name, tensor in self.loop.model.state_dict().items()}

    def restore(self) -> None:
        """Give the model the kept weights."""
        self.loop.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by their names, and the figures under `score` and `loss`."""
        return {} if self.score is None else {"score": self.score, "loss": self.loss, **self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep what a checkpoint has.

        Args:
            state: As `state_dict` returned it.
        """
        self._weights = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        self.score, self.loss = state.get("score"), state.get("loss", float("nan"))
