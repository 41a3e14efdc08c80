"""Start a program and measure it from outside: seconds, processor time, memory, and the ends of its steps."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks.harness import WARM_UP

REPOSITORY = Path(__file__).resolve().parents[2]
_STAMPS = Path(__file__).parent / "stamps"  # Python imports its sitecustomize at the start of the program
_LOOK = 0.2  # seconds between two looks at the resident memory, which cost nothing
_READING = 2.0  # at most so many between two readings of the memory without double counts, 20 ms for each GB
_RISE = 1.02  # of resident memory, after which it is read at once


@dataclass(frozen=True)
class Step:
    """The end of an optimizer step: the time of day and the processor time of the training process, in seconds."""

    at: float
    processor: float


@dataclass(frozen=True)
class Finished:
    """A program that has ended.

    Attributes:
        started: The time of day.
        seconds: From start to end.
        processor: Seconds of processor time, user and system, with all processes that it started.
        megabytes: The peak of memory of all its processes together, in units of 10**6 bytes; pages that several of them
            use are counted once. 0 where the system does not tell.
        steps: The optimizer steps; empty if they were not asked for.
        output: What it printed.
    """

    started: float
    seconds: float
    processor: float
    megabytes: float
    steps: Sequence[Step]
    output: str

    @property
    def seconds_to_first_step(self) -> float:
        """Return the seconds from the start of the process to the end of its first optimizer step."""
        return self.steps[0].at - self.started

    @property
    def step_milliseconds(self) -> tuple[float, float]:
        """Return the mean of a step after the first ones, in milliseconds of wall time and of processor time.

        Processor time is that of the training process, without its workers. More than `WARM_UP` steps are needed.
        """
        first, last, count = self.steps[WARM_UP - 1], self.steps[-1], len(self.steps) - WARM_UP
        return 1000 * (last.at - first.at) / count, 1000 * (last.processor - first.processor) / count


def run_program(command: Sequence[str], work: Path, cores: Collection[int], name: str) -> Finished:
    """Run a program to its end.

    Args:
        command: Its words.
        work: The folder in which it runs and leaves everything that it writes, caches included.
        cores: The processor cores that it may use; none for all of them.
        name: For the message where it fails.

    Raises:
        SystemExit: It ended with an error; the message has the end of what it printed.
    """
    stamps = work / "steps.txt"
    pinned = partial(os.sched_setaffinity, 0, set(cores)) if cores and hasattr(os, "sched_setaffinity") else None
    with (work / "output.txt").open("w+", encoding="utf-8", errors="replace") as output:
        started = time.time()
        process = subprocess.Popen(
            command, cwd=work, env=_environment(work, stamps), preexec_fn=pinned, stdout=output, stderr=output
        )
        with _peak_memory(process.pid) as peak:
            _, status, used = os.wait4(process.pid, 0)
        seconds = time.time() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{printed[-3000:]}")
    steps = read_steps(stamps.read_text()) if stamps.exists() else []
    return Finished(started, seconds, used.ru_utime + used.ru_stime, peak[0], steps, printed)


def read_steps(text: str) -> list[Step]:
    """Return the steps from the lines that `stamps/sitecustomize.py` writes."""
    return [Step(*map(float, line.split())) for line in text.splitlines()]


def _environment(work: Path, stamps: Path) -> dict[str, str]:
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "YOLO_OFFLINE": "true"}
    caches = {"HF_DATASETS_CACHE": str(work / "cache"), "YOLO_CONFIG_DIR": str(work)}
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (_STAMPS, REPOSITORY))), "PEERS_STAMPS": str(stamps)}
    environment = {**os.environ, **settings, **caches, **paths}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # with it only a checkout, as ours, is compiled at each start
    return environment


@contextlib.contextmanager
def _peak_memory(process: int) -> Iterator[list[float]]:
    """Give the peak memory of a process and its descendants in MB, complete once the block is left."""
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        resident, due = 0.0, 0.0
        while not ended.wait(_LOOK):
            with contextlib.suppress(psutil.NoSuchProcess):
                top = psutil.Process(process)
                tree = [top, *top.children(recursive=True)]
                now = sum(part.memory_info().rss for part in tree)
                if now > _RISE * resident or time.monotonic() > due:
                    peak[0] = max(peak[0], sum(map(_megabytes, tree)))
                    resident, due = now, time.monotonic() + _READING

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _megabytes(process: psutil.Process) -> float:
    """Return the proportional set size: a page that two processes share counts half for each."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return float(process.memory_full_info().pss) / 1e6
    return 0.0
