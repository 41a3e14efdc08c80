"""A training loop without a Trainer, for the tests of extensions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


class StubLoop:
    """The `Loop` of `hf_finetune.training.extensions.base`: plain values that a test sets and looks at."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = model or nn.Linear(2, 2)
        self.accelerator = SimpleNamespace(
            device=torch.device("cpu"), num_processes=1, scaler=None, reduce=lambda tensor, how: tensor
        )
        self.state = SimpleNamespace(global_step=0, max_steps=1000, epoch=0.0, best_model_checkpoint=None)
        self.is_sharded = False
        self.loss = torch.tensor(0.0)
        self.left_out: list[float] = []
        self.epochs: list[int] = []
        self.sizes: list[int | None] = []

    def learning_rate(self) -> float:
        return 0.1

    def loss_since_log(self) -> torch.Tensor:
        return self.loss.clone()

    def leave_out_step(self, loss_since_log: torch.Tensor) -> None:
        self.left_out.append(float(loss_since_log))

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def set_training_size(self, size: int | None) -> None:
        self.sizes.append(size)


def call(extension: Any, *events: str) -> None:
    """Call hooks of `TrainerCallback` by their names without `on_`."""
    for event in events:
        getattr(extension, f"on_{event}")(None, extension.loop.state, None)
