"""SIGTERM, SIGINT and SIGHUP end a run after the current step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerState

from hf_finetune.errors import Interrupted
from hf_finetune.logs import get_logger
from hf_finetune.training.extensions.base import Extension

logger = get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A launcher passes a signal on to processes that were sent it as well, so one request to stop arrives twice.
_SECONDS_OF_ONE_REQUEST = 2.0
_SECONDS_BETWEEN_AGREEMENTS = 1.0  # of several ranks; schedulers wait 10 seconds at least before they kill
_MOST_STEPS_BETWEEN_AGREEMENTS = 100


class StopSignals:
    """A context in which SIGTERM, SIGINT and SIGHUP are noted; a second one, two seconds later, ends the process.

    The system sends SIGHUP when the terminal is closed. Where it is ignored already, as under nohup, it stays so.
    A signal that was not `handled` is delivered when the context is left. Outside the main thread nothing is noted,
    because Python runs signal handlers in the main thread only.

    Attributes:
        received: The first signal, or None.
        handled: Set by whoever has acted on it.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.handled = False
        self._received_at = 0.0
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            noted = [number for number in _SIGNALS if not (ignored and number is signal.SIGHUP)]
            self._earlier = {number: signal.signal(number, self._note) for number in noted}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        if self.received is not None and not self.handled:
            os.kill(os.getpid(), self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_at = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._received_at > _SECONDS_OF_ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def outlive_stop_signals() -> None:
    """Let a loader's worker finish the current step: it ignores SIGINT and SIGHUP, and SIGTERM from all but its parent.

    A scheduler, Ctrl-C and the end of a terminal send a signal to all processes of a job. A worker whose parent has
    died is ended by torch's watchdog.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_asks, daemon=True).start()


def _end_when_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class StopOnSignals(Extension):
    """Ends a run with a checkpoint after the step in which one of its ranks received SIGTERM, SIGINT or SIGHUP."""

    worker_init = staticmethod(outlive_stop_signals)

    def __init__(self) -> None:
        """Create the extension."""
        self.signals = StopSignals()
        self._saved_step = -1
        self._agreed_at, self._agreed_step, self._next_agreement = time.monotonic(), -1, 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Note the step of the checkpoint from which the run resumes."""
        self._saved_step = state.global_step or -1
        self._agreed_at, self._agreed_step = time.monotonic(), state.global_step

    def before_save(self) -> None:
        """Note the step of the newest checkpoint."""
        self._saved_step = self.loop.state.global_step

    @contextmanager
    def training(self) -> Iterator[None]:
        """Note signals while the run trains; `Interrupted` says that the run has acted on one."""
        if threading.current_thread() is not threading.main_thread():
            logger.info(
                "Note: the run is not in the main thread, so signals do not save it; what is lost are the steps since"
                " the last checkpoint."
            )
        with self.signals:
            try:
                yield
                late, step = self.stop_requested(), self.loop.state.global_step
                if late is not None and step == self._saved_step:
                    raise Interrupted(late, step)
            except Interrupted:
                self.signals.handled = True
                raise

    def stop_requested(self) -> signal.Signals | None:
        """Return the signal that this rank received, SIGTERM where only another rank did, or None.

        Several ranks agree about once a second and at the last step of the run: an agreement is a message between the
        ranks, and makes the CPU wait for the GPU.
        """
        received, step = self.signals.received, self.loop.state.global_step
        if self.loop.accelerator.num_processes == 1:
            return received
        if self._agreed_step < step < min(self._next_agreement, self.loop.state.max_steps):
            return None
        return (received or signal.SIGTERM) if self._any_rank_stops(step) else None

    def _any_rank_stops(self, step: int) -> bool:
        """Return whether any rank received a signal, and let the ranks choose the step of the next agreement."""
        accelerator, now = self.loop.accelerator, time.monotonic()
        seconds_per_step = max(1e-6, now - self._agreed_at) / max(1, step - self._agreed_step)
        steps = min(_MOST_STEPS_BETWEEN_AGREEMENTS, max(1, int(_SECONDS_BETWEEN_AGREEMENTS / seconds_per_step)))
        # Integers, so that all ranks compute the same sum and meet at the same step.
        own = torch.tensor([int(self.signals.received is not None), steps], device=accelerator.device)
        stopping, all_steps = accelerator.reduce(own, "sum").tolist()
        self._agreed_at, self._agreed_step = now, step
        self._next_agreement = step + all_steps // accelerator.num_processes
        return bool(stopping)
