"""The processes that train together: how they form a group, wait for each other, and find a disk to be shared.

They meet through the launcher's key-value store. The store outlives an elastic restart and still holds what the ended
attempt wrote: gloo would read the addresses of dead processes from it, and the new group would never form. The
launcher's count of restarts does not tell attempts apart, because each machine of a job counts its own restarts. So
rank 0 gives each attempt a new name, and the other ranks ask for it under new names of their own.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from hf_finetune.logs import get_logger

logger = get_logger(__name__)

_LAUNCHED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # the variables of torchrun and accelerate launch
_POLL_SECONDS = 0.05
_REST_SECONDS = 0.02
_SECONDS_OF_SILENCE = 10.0  # a process that starts on a busy machine imports its libraries for as long
# Preparing a dataset or features may take hours, much longer than a step of training may wait.
_LONGEST_PREPARATION = timedelta(days=1)

_store: distributed.Store | None = None
_waits = itertools.count()


def join_processes(use_cpu: bool, timeout: timedelta) -> None:
    """Create the process group of a launched job, which Accelerate then uses. A single process needs none.

    A group that is there already, as in a worker of Ray Train, is used with its store. DeepSpeed creates a group of its
    own, and so does Accelerate for devices other than CPUs and NVIDIA's and AMD's GPUs.

    Args:
        use_cpu: Whether the training runs on the CPU although there may be GPUs.
        timeout: How long a step may wait for another process before it fails.
    """
    global _store
    if distributed.is_initialized():
        if _store is None:
            _store = distributed.PrefixStore("hf_finetune", distributed.distributed_c10d._get_default_store())
            _make_forks_safe(distributed.get_backend())
        return
    if any(name not in os.environ for name in _LAUNCHED_BY):
        return
    flags = {name for name, value in os.environ.items() if value.lower() in ("1", "true", "yes")}
    if os.environ["WORLD_SIZE"] == "1" or "ACCELERATE_USE_DEEPSPEED" in flags:
        return
    if use_cpu or "ACCELERATE_USE_CPU" in flags:
        backend = "gloo"
    elif torch.cuda.is_available():
        backend = "cuda:nccl,cpu:gloo" if "ACCELERATE_USE_FSDP" in flags else "nccl"  # a sharded model is saved on CPUs
    else:
        return
    with _said_while_waiting("Waiting for the {WORLD_SIZE} processes to meet at {MASTER_ADDR}:{MASTER_PORT}."):
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
        _store = distributed.PrefixStore(_agree_on_attempt(store, rank, world_size, timeout), store)
        distributed.init_process_group(backend, store=_store, rank=rank, world_size=world_size, timeout=timeout)
    _make_forks_safe(backend)


@contextmanager
def _said_while_waiting(message: str) -> Iterator[None]:
    """Log a message, with variables of the environment in it, if the block takes longer than a start does."""
    timer = threading.Timer(_SECONDS_OF_SILENCE, logger.info, [message.format_map(os.environ)])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _make_forks_safe(backend: str) -> None:
    if "gloo" in backend and sys.version_info < (3, 12):
        rest_before_forks()


def rest_before_forks() -> None:
    """Pause before each fork of this process, such as for a loader's worker, until gloo's threads are idle.

    Such a thread frees tensors of a finished collective, for which it takes a lock of Python's thread states. A child
    that is forked at that moment inherits the lock as taken, with no thread to release it, and before Python 3.12
    waits for it for ever (PyOS_AfterFork_Child resets it too late).
    """
    os.register_at_fork(before=partial(time.sleep, _REST_SECONDS))


def _agree_on_attempt(store: distributed.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """Return a name that all processes of this attempt, and none of an earlier one, have in common.

    Rank 0 answers until each rank has read the answer, because the first question that it finds may be that of a dead
    process.

    Raises:
        TimeoutError: If a rank does not ask in time.
    """
    if rank > 0:
        own_name = uuid.uuid4().hex
        store.set(f"asking/{rank}", own_name)
        store.wait([f"answer/{own_name}"], timeout)
        attempt = store.get(f"answer/{own_name}").decode()
        store.set(f"ready/{attempt}/{rank}", "")
        return attempt
    attempt, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    absent = set(range(1, world_size))
    while absent:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Of {world_size} processes, {sorted(absent)} did not come in {timeout}.")
        for other in sorted(absent):
            if store.check([f"ready/{attempt}/{other}"]):
                absent.remove(other)
            elif store.check([f"asking/{other}"]):
                store.set(f"answer/{store.get(f'asking/{other}').decode()}", attempt)
        time.sleep(_POLL_SECONDS)
    return attempt


@contextmanager
def main_process_first(process_index: int, first: int) -> Iterator[None]:
    """Let one process do the work of the block before the others do it.

    All processes have to come here, in the same order.

    Args:
        process_index: The rank of this process.
        first: The rank that works first.
    """
    key, store = f"done/{next(_waits)}/{first}", _group_store()
    if process_index != first:
        store.wait([key], _LONGEST_PREPARATION)
    try:
        yield
    finally:
        if process_index == first:
            store.set(key, "")


def _group_store() -> distributed.Store:
    assert _store is not None, "group_is_ready was not asked"
    return _store


def group_is_ready() -> bool:
    """Return whether `join_processes` created the group, so that its store can be used."""
    return _store is not None and distributed.is_initialized()


def all_see(folder: Path, process_index: int, world_size: int) -> bool:
    """Return whether all ranks see the same folder; they all return the same answer.

    Rank 0 puts a file into the folder, or into the nearest one above it that exists, and the others look for it. If it
    cannot write there, the answer is yes.

    Args:
        folder: The folder, which need not exist yet.
        process_index: The rank of this process.
        world_size: The number of processes.
    """
    folder, key, store = folder.absolute(), f"seen/{next(_waits)}", _group_store()
    if process_index == 0:
        existing = next(path for path in (folder, *folder.parents) if path.is_dir())
        mark = existing / f".seen-{uuid.uuid4().hex}"
        try:
            mark.touch()
            written = True
        except OSError:
            written = False
        try:
            store.set(key, f"{int(written)}\n{folder}\n{mark}")
            answers = [f"{key}/{other}" for other in range(1, world_size)]
            store.wait(answers, _LONGEST_PREPARATION)
            seen = all(store.get(answer) == b"1" for answer in answers)
        finally:
            if written:
                mark.unlink()
        store.set(f"{key}/all", str(int(seen)))
        return seen
    store.wait([key], _LONGEST_PREPARATION)
    was_written, first_folder, first_mark = store.get(key).decode().split("\n")
    seen = was_written == "0" or (first_folder == str(folder) and Path(first_mark).exists())
    store.set(f"{key}/{process_index}", str(int(seen)))
    store.wait([f"{key}/all"], _LONGEST_PREPARATION)
    return store.get(f"{key}/all") == b"1"
