"""Ctrl-C in the commands: noted at any instant, and acted on where nothing can swallow it.

Python raises `KeyboardInterrupt` between any two of its instructions. Where it falls into a destructor or a hook of
fork, such as that of logging, Python prints it as ignored and the command continues; where it falls into the import of
a library, that may answer with an error of its own. So the commands note SIGINT. They leave at the next safe point,
such as between two batches, and without one within a second the process ends where it is: everything that a run keeps
is written aside and renamed, so an end at any instant leaves nothing half written.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODE = 128 + signal.SIGINT  # as a shell reports it

_SECONDS_TO_A_SAFE_POINT = 1.0

_noting: NotedInterrupts | None = None


class NotedInterrupts:
    """A context in which SIGINT is noted instead of raised. It does nothing outside the main thread.

    Attributes:
        noted: Whether there was a SIGINT.
        raises: Whether it is raised as usual for the moment (`raised_interrupts`).
    """

    def __init__(self, last_words: str) -> None:
        """Create the context.

        Args:
            last_words: What is written to standard error where no safe point comes.
        """
        self.noted = self.raises = False
        self._last_words = last_words
        self._process = os.getpid()
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> NotedInterrupts:
        """Begin to note SIGINT, unless the process ignores it or has a handler of its own."""
        global _noting
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._earlier[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._end)
            self._earlier[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)
            _noting = self
        return self

    def __exit__(self, *exception: object) -> None:
        """Restore what was there before."""
        global _noting
        if self._earlier:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _noting = None
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def leave(self) -> None:
        """Raise `KeyboardInterrupt` at a safe point if there was a SIGINT."""
        if self.noted:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.raises or os.getpid() != self._process:  # a child, whose parent decides
            signal.default_int_handler(number, frame)
        self.noted = True
        signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_A_SAFE_POINT)

    def _end(self, number: int, frame: FrameType | None) -> None:
        os.write(2, self._last_words.encode())
        os._exit(EXIT_CODE)


def leave_if_interrupted() -> None:
    """Be a safe point: raise `KeyboardInterrupt` where a command has noted a SIGINT."""
    if _noting is not None:
        _noting.leave()


@contextmanager
def raised_interrupts() -> Iterator[None]:
    """Let SIGINT raise `KeyboardInterrupt` at once, for a wait without safe points whose caller handles it."""
    if _noting is None:
        yield
        return
    _noting.leave()
    _noting.raises = True
    try:
        yield
    finally:
        _noting.raises = False
