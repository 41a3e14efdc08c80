"""Signals that ask a run to stop, noted until the step at hand is done."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A launcher passes on what its processes were sent as well, so that one wish to stop arrives twice.
_SECONDS_OF_ONE_REQUEST = 2.0


class StopSignals:
    """While entered, SIGTERM and SIGINT are noted in `received`; a second one, two seconds later, ends the process.

    One that nobody has acted on (`handled`) is delivered when it is left. Outside the main thread nothing is noted.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.handled = False
        self._received_at = 0.0
        self._earlier: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._note) for number in _SIGNALS}
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
    """Lets a loader's worker serve the step at hand to its end: it ignores SIGINT, and SIGTERM but of its parent.

    A scheduler, and Ctrl-C, send a signal to all processes of a job. Who lost its parent is ended by torch's watchdog.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_asks, daemon=True).start()


def _end_when_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
