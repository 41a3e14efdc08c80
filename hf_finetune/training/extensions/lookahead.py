"""Slow weights that follow the trained ones and pull them back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.training.averages import restore, update_average
from hf_finetune.training.extensions.base import Extension

_DECAY = 0.95  # of the slow weights per step, at the end of the run


def lookahead_decay(step: int, max_steps: int, every: int) -> float:
    r"""Return the part of the slow weights that an update keeps.

    .. math::
        d_t = 0.95^k \, (t / T)^3

    So the slow weights follow at once at the beginning of the run, and average at its end (Keller Jordan, "94% on
    CIFAR-10 in 3.29 seconds on a single GPU", 2024, arXiv:2404.00498, section 3.4).

    Args:
        step: The optimizer step :math:`t`, counted from 1.
        max_steps: The steps of the run, :math:`T`.
        every: The steps between two updates, :math:`k`.
    """
    return float(_DECAY**every * (step / max_steps) ** 3)


class Lookahead(Extension):
    """Every few steps, moves slow weights towards the trained ones and continues from them.

    The optimizer of Zhang et al., "Lookahead optimizer: k steps forward, 1 step back" (NeurIPS 2019, arXiv:1907.08610),
    with the rate of `lookahead_decay` in place of a constant. BatchNorm's running statistics are treated like weights.
    """

    name = "lookahead"

    def __init__(self, every: int) -> None:
        """Create the extension.

        Args:
            every: Optimizer steps between two updates, 1 or more.
        """
        self.every = every
        self._weights: dict[str, torch.Tensor] = {}
        self._slow: dict[str, torch.Tensor] = {}  # empty before and after the training

    def _begin(self) -> None:
        model = self.loop.model
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        buffers = {name for name, _ in model.named_buffers()}
        self._weights = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if name in trained | buffers and tensor.is_floating_point()
        }
        self._slow = {name: tensor.clone() for name, tensor in self._weights.items()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin with the weights as they are, unless a checkpoint's slow ones were loaded."""
        if not self._slow:
            self._begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the slow weights, and continue from them."""
        step = state.global_step
        if step % self.every and step != state.max_steps:
            return
        slow, weights = list(self._slow.values()), list(self._weights.values())
        update_average(slow, weights, lookahead_decay(step, state.max_steps, self.every))
        torch._foreach_copy_(weights, slow)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the slow weights."""
        self._weights, self._slow = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return the slow weights by their names."""
        return dict(self._slow)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin with the slow weights of a checkpoint.

        Args:
            state: The slow weights by their names.

        Raises:
            UserError: The checkpoint has none, or those of other weights.
        """
        self._begin()
        advice = "The checkpoint has no slow weights for lookahead_steps; use --overwrite_output_dir to start anew."
        restore(self._slow, state, advice)
