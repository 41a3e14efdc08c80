"""The limit: a bare PyTorch loop on one batch of random numbers in memory, in channels_last. No data, no Trainer."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from benchmarks.harness import WARM_UP, stopwatch
from benchmarks.stock import Schedule


class Limit:
    """Forward pass, cross entropy, backward pass and fused SGD, repeated on the same images."""

    def __init__(self, model: PreTrainedModel, schedule: Schedule, image_size: int) -> None:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # typed as a function of `self` alone
        self.model = model.train()
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=schedule.learning_rate,
            momentum=schedule.momentum,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        images = torch.randn(schedule.batch, 3, image_size, image_size, device=model.device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(int(model.config.num_labels or 0), (schedule.batch,), device=model.device)

    def _steps(self, count: int) -> None:
        for _ in range(count):
            loss = functional.cross_entropy(self.model(self.images).logits, self.labels)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def seconds_per_step(self, steps: int, warm_up: int = WARM_UP) -> float:
        self._steps(warm_up)
        return stopwatch(lambda: self._steps(steps)) / steps
