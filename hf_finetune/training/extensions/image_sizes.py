"""Training images grow during a run: progressive resizing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.base import Extension

logger = get_logger(__name__)


def size_at(schedule: Mapping[float, int], share: float) -> int | None:
    """Return the size of training images in pixels, None for all that they have.

    Args:
        schedule: For shares of the run, from 0 to 1, the size from there on.
        share: The share that is over.
    """
    begun = [start for start in schedule if start <= share]
    return schedule[max(begun)] if begun else None


class ImageSizes(Extension):
    """Tells the loop at the beginning of each epoch which size its training images have.

    The epoch alone decides, so a resumed run needs no state of its own.
    """

    def __init__(self, sizes: Mapping[float, int]) -> None:
        """Create the extension.

        Args:
            sizes: For shares of the epochs, from 0 to 1, the shorter side of training images in pixels.
        """
        self.sizes = sizes
        self._size: int | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the size of the epoch that begins, and log a new one."""
        epoch = int(state.epoch or 0)
        size = size_at(self.sizes, epoch / state.num_train_epochs)
        self.loop.set_training_size(size)
        if size != self._size:
            logger.info(f"From epoch {epoch} on training images have {size} pixels.")
        self._size = size

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave training images as they are."""
        self.loop.set_training_size(None)
