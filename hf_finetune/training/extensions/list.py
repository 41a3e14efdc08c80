"""The extensions of a run as one object, which passes each event on to all of them in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hf_finetune.training.extensions.base import Extension, Loop

_Kind = TypeVar("_Kind", bound=Extension)


class Extensions(Sequence[Extension]):
    """A list of extensions with the hooks of `Extension` that Transformers does not call.

    The hooks of `transformers.TrainerCallback` are not here: the Trainer's own callback handler calls them.
    """

    def __init__(self, extensions: Sequence[Extension]) -> None:
        """Create the list.

        Args:
            extensions: The extensions, in the order in which they see each event.
        """
        self._extensions = tuple(extensions)
        self._stateful = [extension for extension in self._extensions if extension.name]

    def __getitem__(self, index: Any) -> Any:
        """Return the extension at a position."""
        return self._extensions[index]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._extensions)

    def attach(self, loop: Loop) -> None:
        """Give all of them the loop."""
        for extension in self._extensions:
            extension.attach(loop)

    def find(self, kind: type[_Kind]) -> _Kind | None:
        """Return the extension of a class, None where there is none."""
        return next((extension for extension in self._extensions if isinstance(extension, kind)), None)

    def state_dicts(self) -> dict[str, dict[str, Any]]:
        """Return the state of each extension that keeps one, by its name. All ranks call it."""
        return {extension.name: extension.state_dict() for extension in self._stateful}

    def load_state_dicts(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore each extension from the checkpoint from which the run resumes."""
        for extension in self._stateful:
            extension.load_state_dict(states.get(extension.name, {}))

    def load_best(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what each extension keeps of the weights of the best checkpoint."""
        for extension in self._stateful:
            extension.load_best(states.get(extension.name, {}))

    @contextmanager
    def training(self) -> Iterator[None]:
        """Surround the training."""
        with ExitStack() as stack:
            for extension in self._extensions:
                stack.enter_context(extension.training())
            yield

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Surround whatever reads images."""
        with ExitStack() as stack:
            for extension in self._extensions:
                stack.enter_context(extension.loading())
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Surround an evaluation."""
        with ExitStack() as stack:
            for extension in self._extensions:
                stack.enter_context(extension.evaluating())
            yield

    def schedule(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return the first schedule that one brings along, None where none does."""
        schedules = (extension.schedule(optimizer) for extension in self._extensions)
        return next((schedule for schedule in schedules if schedule is not None), None)

    def after_pass(self, loss: torch.Tensor, sample_index: torch.Tensor | None) -> None:
        """Show a forward and backward pass to all."""
        for extension in self._extensions:
            extension.after_pass(loss, sample_index)

    def before_log(self) -> None:
        """Call all before an entry of the log is written."""
        for extension in self._extensions:
            extension.before_log()

    def before_save(self) -> None:
        """Call all before a checkpoint is written."""
        for extension in self._extensions:
            extension.before_save()

    def stop_requested(self) -> signal.Signals | None:
        """Ask all whether the run must end, because their ranks answer together, and return the first signal."""
        requests = [extension.stop_requested() for extension in self._extensions]
        return next((request for request in requests if request is not None), None)

    @property
    def worker_inits(self) -> list[Callable[[], None]]:
        """What each of a loader's workers calls when it starts."""
        return [extension.worker_init for extension in self._extensions if extension.worker_init is not None]

    @property
    def skipped_steps(self) -> list[dict[str, Any]]:
        """The optimizer steps that changed nothing."""
        return [step for extension in self._extensions for step in extension.skipped_steps]

    def unreadable_images(self) -> list[str]:
        """Return this rank's unreadable images, each with the reason."""
        return [image for extension in self._extensions for image in extension.unreadable_images()]
