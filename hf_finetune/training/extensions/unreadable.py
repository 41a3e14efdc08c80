"""Images that cannot be read during a run: one line that says how to resume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hf_finetune.errors import LoadingError, UserError
from hf_finetune.training.checkpoints.store import list_checkpoints
from hf_finetune.training.extensions.base import Extension
from hf_finetune.training.loader_errors import leave_a_lost_parent_to_itself, loader_errors_in_one_line


class FoundImages(Protocol):
    """A list of unreadable images, such as `BadImages`."""

    def found(self) -> list[str]:
        """Return the unreadable images, each once and with the reason."""


class UnreadableImages(Extension):
    """Turns what fails while images are loaded into one line, and knows the images that were unreadable."""

    worker_init = staticmethod(leave_a_lost_parent_to_itself)

    def __init__(self, images: FoundImages | None, run_folder: Path | None) -> None:
        """Create the extension.

        Args:
            images: The list of unreadable images; None where nobody keeps one.
            run_folder: The folder with the checkpoints of the run; None where nothing is trained.
        """
        self.images = images
        self.run_folder = run_folder

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Raise `UserError` of one line, which ends with how to resume, for images that cannot be loaded."""
        try:
            with loader_errors_in_one_line():
                yield
        except LoadingError as error:
            if self.run_folder is None:
                raise
            saved = list_checkpoints(self.run_folder)
            advice = (
                "The checkpoints stay, and the same command resumes the run." if saved else "No checkpoint was due yet."
            )
            raise UserError(f"{error} {advice}") from error

    def unreadable_images(self) -> list[str]:
        """Return the unreadable images that this rank knows of, each with the reason."""
        return [] if self.images is None else self.images.found()
