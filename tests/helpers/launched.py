"""Scripts that are run in one process, or in several as `torchrun` does, each of which starts at once.

The processes are forked from a server that has imported the package and run nothing. `torchrun` itself, whose every
process imports all of it for seconds, is left to the tests of launching.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_FORKSERVER = multiprocessing.get_context("forkserver")
SECONDS_OF_A_RUN = 120  # until it is taken for one that hangs
_SECONDS_OF_A_LAUNCHER = 1.5  # between the end of one process and the signal to the others


def preload() -> None:
    """Have the server import the package before it forks the first process, if it does not run yet."""
    _FORKSERVER.set_forkserver_preload(["tests.helpers.preloaded"])


def run_in(processes: int, script: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in processes on this machine, with further environment variables.

    Returns:
        What all of them wrote, and 0, or 1 if one of them failed, as `torchrun` returns.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        children = [
            start(streams, script, *words, environment=of_rank | environment) for of_rank in environments(processes)
        ]
        failed = any(wait(children))
        return subprocess.CompletedProcess(
            [str(script), *map(str, words)], int(failed), *(path.read_text() for path in streams)
        )


def start(
    streams: Sequence[Path],
    script: Path,
    *words: object,
    prepare: Callable[[], object] = int,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Start a script in a process of its own.

    Args:
        streams: What its standard output and its standard error are written to: files, or pipes that have a reader.
        prepare: What the process does first, as a shell would, in an importable module.
        environment: Further environment variables.
    """
    preload()
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    child = _FORKSERVER.Process(target=_run, args=([str(script), *map(str, words)], variables, streams, prepare))
    child.start()
    return child


def environments(processes: int) -> list[dict[str, str]]:
    """Return the variables by which a launcher tells each of its processes which one it is; none for one process."""
    if processes == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def wait(children: Sequence[Any]) -> list[int]:
    """Wait as a launcher does, which ends the other processes where one has failed, and return the exit codes."""
    deadline = time.monotonic() + SECONDS_OF_A_RUN
    while any(child.exitcode is None for child in children) and all(not child.exitcode for child in children):
        time.sleep(0.005)
        if time.monotonic() > deadline:
            break
    for seconds, stop in ((_SECONDS_OF_A_LAUNCHER, "terminate"), (10, "kill"), (10, None)):
        for child in children:
            child.join(seconds)
        if stop is None or all(child.exitcode is not None for child in children):
            break
        for child in children:
            getattr(child, stop)()
    return [child.exitcode for child in children]


def _run(
    command: list[str], environment: Mapping[str, str], streams: Sequence[Path], prepare: Callable[[], object]
) -> None:
    """Be a process that was started with this command, environment, standard output and standard error."""
    import datasets

    os.environ.clear()
    os.environ.update(environment)
    datasets.config.HF_DATASETS_CACHE = Path(environment["HF_DATASETS_CACHE"])  # it was read when it was imported
    multiprocessing.set_start_method("fork", force=True)  # of loaders' workers, as it is in a real command
    for number, (name, path) in enumerate(zip(("stdout", "stderr"), streams, strict=True), start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        setattr(sys, name, open(number, "w", buffering=1 if name == "stderr" else -1, closefd=False))  # noqa: SIM115
    prepare()
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
