"""The processes that train together — how they meet, wait for each other, and find a disk shared.

They meet through the key-value store of whoever launched them. It outlives an elastic restart, and what the ended
attempt wrote there is still in it: gloo takes the addresses of dead peers from it, and no new attempt comes about. The
launcher's count of restarts does not tell the attempts apart, because the machines of a job count for themselves. So
the first process names each attempt anew, and the others wait until it has answered them under names of their own.
"""

from __future__ import annotations

import itertools
import os
import sys
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

_LAUNCHED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # the variables of torchrun and accelerate launch
_POLL_SECONDS = 0.05
_REST_SECONDS = 0.02
# A dataset or features may take hours; whoever waits for them must not give up when a step of training would have.
_LONGEST_PREPARATION = timedelta(days=1)

_store: distributed.Store | None = None
_waits = itertools.count()


def join_processes(use_cpu: bool, timeout: timedelta) -> None:
    """Makes the process group of a launched job; Accelerate then takes it as it is. One process alone needs none.

    A step that a peer keeps waiting for `timeout` is an error. DeepSpeed makes a group of its own, and so does
    Accelerate for devices other than CPUs and NVIDIA's and AMD's GPUs.
    """
    global _store
    if distributed.is_initialized() or any(name not in os.environ for name in _LAUNCHED_BY):
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
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    _store = distributed.PrefixStore(_agree_on_attempt(store, rank, world_size, timeout), store)
    distributed.init_process_group(backend, store=_store, rank=rank, world_size=world_size, timeout=timeout)
    if "gloo" in backend and sys.version_info < (3, 12):
        rest_before_forks()


def rest_before_forks() -> None:
    """Lets gloo's threads come to rest before a process is forked, as a loader's worker is.

    Such a thread frees a tensor of a collective that is over, for which Python gives it a state under a lock. Forked at
    that instant, the child has the lock held by nobody, and before Python 3.12 waits for it for ever
    (PyOS_AfterFork_Child fixes it too late).
    """
    os.register_at_fork(before=partial(time.sleep, _REST_SECONDS))


def _agree_on_attempt(store: distributed.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """Returns a name that all processes of this attempt, and none of an earlier one, have in common.

    The first process answers until each has read the answer, because the name by which one asks may be that
    of a dead process at first. Raises `TimeoutError` where one does not come.
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
    """Lets process `first` do the work before the others do it; all have to come here, in the same order."""
    key = f"done/{next(_waits)}/{first}"
    if process_index != first:
        _store.wait([key], _LONGEST_PREPARATION)
    try:
        yield
    finally:
        if process_index == first:
            _store.set(key, "")


def group_is_ready() -> bool:
    """Whether `join_processes` made the group, so that its store can be used."""
    return _store is not None and distributed.is_initialized()


def all_see(folder: Path, process_index: int, world_size: int) -> bool:
    """Says, and all ranks agree, whether `folder` is the same in all of them; it need not be there yet.

    The first process puts a file into it, or into what there is above it, for a moment; where it cannot, it is not
    asked, and the answer is yes.
    """
    folder, key = folder.absolute(), f"seen/{next(_waits)}"
    if process_index == 0:
        existing = next(path for path in (folder, *folder.parents) if path.is_dir())
        mark = existing / f".seen-{uuid.uuid4().hex}"
        try:
            mark.touch()
            written = True
        except OSError:
            written = False
        try:
            _store.set(key, f"{int(written)}\n{folder}\n{mark}")
            answers = [f"{key}/{other}" for other in range(1, world_size)]
            _store.wait(answers, _LONGEST_PREPARATION)
            seen = all(_store.get(answer) == b"1" for answer in answers)
        finally:
            if written:
                mark.unlink()
        _store.set(f"{key}/all", str(int(seen)))
        return seen
    _store.wait([key], _LONGEST_PREPARATION)
    written, first_folder, mark = _store.get(key).decode().split("\n")
    seen = written == "0" or (first_folder == str(folder) and Path(mark).exists())
    _store.set(f"{key}/{process_index}", str(int(seen)))
    _store.wait([f"{key}/all"], _LONGEST_PREPARATION)
    return _store.get(f"{key}/all") == b"1"
