"""Writes the checkpoints of a run into a hidden folder, each renamed when it is complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hf_finetune.training.checkpoints import store
from hf_finetune.training.checkpoints.resume import ResumeState
from hf_finetune.training.checkpoints.sizes import checkpoint_sizes

if TYPE_CHECKING:
    from hf_finetune.config.training import FinetuneArguments
    from hf_finetune.training.extensions.list import Extensions
    from hf_finetune.training.stock_trainer import TrainerLoop


class CheckpointWriter:
    """Writes checkpoints that are whole or not there.

    Attributes:
        saved_step: The optimizer step of the newest checkpoint, written or resumed from; -1 before the first.
        folder_in_use: The folder in which a checkpoint is being written; None between two checkpoints.
    """

    def __init__(self, args: FinetuneArguments, loop: TrainerLoop, extensions: Extensions) -> None:
        """Create a writer.

        Args:
            args: What is kept, and which process this is.
            loop: The training loop.
            extensions: What has a state of its own to save.
        """
        self.saved_step = -1
        self.folder_in_use: str | None = None
        self._args, self._loop, self._extensions = args, loop, extensions

    def remove_unfinished(self) -> None:
        """Remove what a run that was killed has left half written."""
        if self._args.should_save:
            store.remove_unfinished(Path(str(self._args.output_dir)))

    def write(self, folder: Path, is_due: bool, save: Callable[[], None]) -> None:
        """Write a checkpoint, and remove the surplus ones. All ranks call it.

        Args:
            folder: The folder of the run.
            is_due: Whether the schedule asks for it; else a signal does.
            save: Writes what the stock Trainer saves into `folder_in_use`.

        Raises:
            UserError: The disk is full.
        """
        self._extensions.before_save()
        state, is_writer = self._loop.state, self._args.should_save
        best, wait = state.best_model_checkpoint, self._loop.accelerator.wait_for_everyone
        resume_state = ResumeState(self._loop.running_loss(), self._extensions.state_dicts())
        name, needed = f"checkpoint-{state.global_step}", checkpoint_sizes(self._loop.model, self._args)[1]

        def remove_surplus() -> None:
            kept = state.best_model_checkpoint
            store.rotate(folder, self._args.save_total_limit, Path(kept) if kept else None)

        with store.written_aside(folder, name, needed, is_writer, wait, remove_surplus) as unfinished:
            self.folder_in_use = str(unfinished.parent)
            try:
                save()
            finally:
                self.folder_in_use = None
            # The stock Trainer has looked for the best checkpoint in the hidden folder. A checkpoint that only a signal
            # asked for is never the best: without the signal it would not be there.
            is_best = is_due and state.best_global_step == state.global_step
            state.best_model_checkpoint = str(folder / name) if is_best else best
            if is_writer:
                resume_state.save(unfinished)
                state.save_to_json(str(unfinished / store.STATE_FILE))
        self.saved_step = state.global_step
