"""An exponential moving average of the weights over a run, which is what is evaluated, chosen and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.logs import get_logger
from hf_finetune.training.averages import restore, update_average
from hf_finetune.training.extensions.base import Extension

logger = get_logger(__name__)

_LARGE_REST = 0.05  # part of the initial weights in an average without warm-up from which a run is short for its decay


def warmed_up(decay: float, step: int) -> float:
    r"""Return the decay of one step, which is low at first: a short run is not to keep its initial weights.

    .. math::
        d_t = \min(d, (1 + t) / (10 + t))

    This is the warm-up of TensorFlow's `ExponentialMovingAverage(num_updates=...)` and of EfficientNet's training. timm
    has another of the same kind (`--model-ema-warmup`).

    Args:
        decay: The final decay :math:`d`, 0 to 1.
        step: The optimizer step :math:`t`, counted from 1.
    """
    return min(decay, (1 + step) / (10 + step))


class AveragedWeights(Extension):
    """Keeps an average of the trained parameters: evaluation sees it, checkpoints hold it, the result is it.

    The average begins with the parameters at the start of the training and is updated after each optimizer step, with
    the decay of `warmed_up`.
    BatchNorm's running statistics are not averaged: those of the last step are used.
    """

    name = "averaged_weights"

    def __init__(self, decay: float) -> None:
        """Create the extension.

        Args:
            decay: The part of the average that a step keeps after the warm-up, 0 to 1.
        """
        self.decay = decay
        self._weights: dict[str, nn.Parameter] = {}
        self._averages: dict[str, torch.Tensor] = {}  # empty before and after the training

    def _begin(self) -> None:
        self._weights = {name: weight for name, weight in self.loop.model.named_parameters() if weight.requires_grad}
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def _exchange(self) -> None:
        """Give the model the averages, and keep its weights in their place."""
        for name, weight in self._weights.items():
            self._averages[name], weight.data = weight.data, self._averages[name]

    # ---- hooks ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the average, unless a checkpoint's was loaded, and say where the run is short for the decay."""
        if self.decay**state.max_steps > _LARGE_REST:
            logger.info(
                f"Note: ema_decay {self.decay:g} averages over more steps than the {state.max_steps:,} of this run; the"
                f" decay starts at {warmed_up(self.decay, 1):.2g} and rises to"
                f" {warmed_up(self.decay, state.max_steps):.4g}."
            )
        if not self._averages:
            self._begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the average."""
        decay = warmed_up(self.decay, state.global_step)
        update_average(list(self._averages.values()), list(self._weights.values()), decay)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model with the average, which is that of the best checkpoint where that was loaded."""
        self._exchange()
        self._weights, self._averages = {}, {}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Give the model the averages while it is evaluated during the training."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by the names of their parameters."""
        return dict(self._averages)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin with the averages of a checkpoint.

        Args:
            state: The averages by the names of their parameters.

        Raises:
            UserError: The checkpoint has no average, or one of other parameters.
        """
        self._begin()
        self.load_best(state)

    def load_best(self, state: Mapping[str, Any]) -> None:
        """Replace the averages by those of the best checkpoint.

        Args:
            state: The averages by the names of their parameters.

        Raises:
            UserError: The checkpoint has no average, or one of other parameters.
        """
        advice = "The checkpoint has no average of these weights; use --overwrite_output_dir to start anew."
        restore(self._averages, state, advice)
