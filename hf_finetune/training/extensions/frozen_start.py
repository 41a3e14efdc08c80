"""The first epochs train the head alone, the others everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.logs import get_logger
from hf_finetune.models.freeze import hold_backbone
from hf_finetune.training.extensions.base import Extension

logger = get_logger(__name__)


class FrozenStart(Extension):
    """Holds the backbone while the first epochs begin, as fastai's `fine_tune` does, and lets it go after them.

    The optimizer has all parameters from the start; those without a gradient it leaves as they are, without decay. The
    epoch alone decides, so a resumed run needs no state of its own.
    """

    def __init__(self, epochs: int) -> None:
        """Create the extension.

        Args:
            epochs: Epochs that train the head alone, 1 or more.
        """
        self.epochs = epochs
        self._release: Callable[[], None] | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Hold the backbone, or let it go, for the epoch that begins."""
        is_early = int(state.epoch or 0) < self.epochs
        if is_early and self._release is None:
            model = cast(PreTrainedModel, self.loop.model)
            self._release = hold_backbone(model)
            trained = model.num_parameters(only_trainable=True)
            logger.info(
                f"The head alone ({trained:,} of {model.num_parameters():,} parameters) is trained until epoch"
                f" {self.epochs}."
            )
        elif not is_early and self._release is not None:
            self._let_go()
            logger.info(f"From epoch {self.epochs} on everything is trained.")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the network as it was given, where the run ended in its first epochs."""
        self._let_go()

    def _let_go(self) -> None:
        if self._release is not None:
            self._release()
            self._release = None
