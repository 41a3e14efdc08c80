"""Errors of a loader's worker processes, in one line each.

torch passes on an error in a worker with the worker's whole traceback as its message. It reports the death of a worker
as a `RuntimeError` wherever the main process happens to be.
"""

from __future__ import annotations

import errno
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_finetune.errors import LoadingError, UserError

_SHARED_MEMORY = Path("/dev/shm")
_OWN_ERROR = re.compile(r"\nhf_finetune\.[\w.]+: ")  # before the words of one of ours, at the end of a traceback
_REPORT_OF_DEATH = 1.0  # seconds within which torch reports a worker whose connection has broken
_DEAD_WORKER = re.compile(
    r"DataLoader worker \(pid\S* [\d, ]+\) (?:is killed by signal: (?P<signal>[\w ]+)|exited unexpectedly)"
)


def leave_a_lost_parent_to_itself() -> None:
    """Keep a worker's threads from printing that the main process is gone; the main process prints why."""
    usual = sys.excepthook
    sys.excepthook = lambda kind, *rest: None if issubclass(kind, ConnectionError) else usual(kind, *rest)


@contextmanager
def loader_errors_in_one_line() -> Iterator[None]:
    """Surround what reads from a loader.

    Raises:
        LoadingError: Something went wrong in a worker or with one; the message is one line.
        UserError: A worker raised one, which is passed on with its message alone.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError, UserError) as error:
        try:
            message = str(error)
            own = list(_OWN_ERROR.finditer(message))
            fault = None if own or isinstance(error, UserError) else _explain(error)
        except RuntimeError as late:
            # A dead worker breaks a connection first; torch reports it from a signal handler, and so at any instant.
            own, fault = [], _explain(late)
        if own:
            words = message[own[-1].end() :].strip()
            raise (type(error) if isinstance(error, UserError) else LoadingError)(words) from None
        if fault is None:
            raise
        raise LoadingError(fault) from error


def _explain(error: Exception) -> str | None:
    """Return one line on an error of torch's loader, None for any other error."""
    message = str(error)
    within = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    starting = isinstance(error, OSError) and "_get_iterator" in within
    if starting:
        _forget_half_made_iterator(error)
    if isinstance(error, OSError | EOFError) and "_try_get_data" in within:
        time.sleep(_REPORT_OF_DEATH)  # the report says more, and would come while this error is passed on
    dead = _DEAD_WORKER.search(message)
    signal = dead and dead["signal"]
    no_room = "/torch_" in message and ("No space left" in message or "shared memory" in message)
    if no_room or signal == "Bus error" or (starting and getattr(error, "errno", None) == errno.ENOSPC):
        size = f" of {shutil.disk_usage(_SHARED_MEMORY).total / 1e6:,.1f} MB" if _SHARED_MEMORY.is_dir() else ""
        return (
            f"The shared memory{size} ({_SHARED_MEMORY}), by which the processes that load images hand over their"
            " batches, is full; make it larger (docker run --shm-size 8g), or use --dataloader_num_workers 0."
        )
    if "Too many open files" in message:
        return (
            "The processes that load images need more open files than are allowed; run ulimit -n 65536 before the"
            " command, or --dataloader_num_workers 0."
        )
    if starting:
        return (
            f"The processes that load images cannot be started ({getattr(error, 'strerror', '')}); use a lower"
            " --dataloader_num_workers."
        )
    # A worker may die before the batch that it announced is handed over, which is then an error of the connection.
    if dead or "_try_get_data" in within or "in pin memory thread" in message or "Pin memory thread exited" in message:
        how = f"was ended by the signal {signal}" if signal else "ended unexpectedly"
        return (
            f"A process that loads images {how}; where the system does that for want of memory, use a lower"
            " --dataloader_num_workers."
        )
    return None


def _forget_half_made_iterator(error: Exception) -> None:
    """Keep torch's iterator, whose workers could not be started, from printing a traceback when it is deleted."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        iterator = frame.f_locals.get("self")
        if iterator is not None and type(iterator).__name__ == "_MultiProcessingDataLoaderIter":
            iterator._shutdown = True
