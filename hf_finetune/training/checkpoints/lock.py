"""One run at a time in a folder: a lock that the kernel releases when the process of the run ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

LOCK_FILE = ".lock"
_held: set[int] = set()


class AtWork(UserError):
    """Another process is at work in a folder."""


def _close_in_child() -> None:
    """Close what a forked worker of the data loader inherits: it would keep the lock of a run that was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def check_unused(folder: Path, file: str = LOCK_FILE) -> None:
    """Check that no run is at work in a folder; nothing is written.

    Args:
        folder: The folder.
        file: The name of the lock.

    Raises:
        AtWork: One is; the message says which process, on which machine and since when.
    """
    try:
        descriptor = os.open(folder / file, os.O_RDWR)
    except OSError:
        return  # nobody's; what cannot be read is told by those who need it
    try:
        _lock(descriptor, folder, "output_dir")
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, file: str = LOCK_FILE, flag: str = "output_dir") -> Iterator[None]:
    """Keep other runs out of a folder, which is created. The main process alone enters the context.

    Args:
        folder: The folder of the run.
        file: The name of the lock.
        flag: What messages call the setting that names the folder.

    Raises:
        AtWork: Another run is at work there.
        UserError: The folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag}: {folder} cannot be created ({error.strerror}); use another.") from error
    path = folder / file
    descriptor = _open_locked(path, folder, flag)
    _held.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        since = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        _held.discard(descriptor)
        os.close(descriptor)


def _open_locked(path: Path, folder: Path, flag: str) -> int:
    """Return the descriptor of the locked file; one that its owner has just removed is opened anew."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, folder, flag)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, flag: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 1000, 0).decode(errors="replace") or "another process"
        raise AtWork(
            f"{flag}: a run is at work in {folder}: {owner}; wait for its end, or use another --{flag}."
        ) from error
    except OSError as error:
        logger.warning(f"Note: {folder} cannot be locked ({error.strerror}); let no other run use it.")
