"""Kills runs of the real command at random instants, takes them up again, and compares how they end."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hf_finetune.config.run_files import METRICS_FILE
from hf_finetune.data.fingerprint import FINGERPRINT_FILE
from tests.faults.child import (
    EVALUATION,
    EVALUATIONS,
    HISTORY_FILE,
    PHASE,
    PHASES,
    SAVES,
    SAVING,
    START,
    STEP,
    TRAINING,
    run_command,
)
from tests.helpers.launched import SECONDS_OF_A_RUN, environments, wait

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.faults.child"])
_STOPS = (signal.SIGTERM, signal.SIGINT)


def warm_up() -> None:
    """Has the forkserver import everything, so that what is timed afterwards does not wait for it."""
    process = _FORKSERVER.Process(target=int)
    process.start()
    process.join()


def start(words: list[str], log: Path, processes: int = 1) -> tuple[list[Any], Any]:
    """Starts the command in so many processes of one group, and returns them and the numbers they share with us."""
    shared = _FORKSERVER.RawArray("l", 4)
    children = []
    for rank, own in enumerate(environments(processes)):
        told = shared if rank == 0 else _FORKSERVER.RawArray("l", 4)
        children.append(_FORKSERVER.Process(target=run_command, args=(words, own, str(log), told)))
        children[-1].start()
    return children, shared


@dataclass
class Interruption:
    """When a run is to be ended, and how: at a random instant, or a little after the nth time it does something."""

    signal: signal.Signals
    delay: float  # seconds
    after: int | None = None  # the counter that is waited for, and its value
    count: int = 0
    ranks: tuple[int, ...] = (0,)
    workers_too: bool = False

    @classmethod
    def draw(cls, generator: random.Random, seconds: float, processes: int) -> Interruption:
        """`seconds` is how long an undisturbed run takes."""
        number = generator.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGTERM, signal.SIGINT))
        ranks = generator.choice([(rank,) for rank in range(processes)] + [tuple(range(processes))])
        workers_too = generator.random() < 0.5
        after = generator.choice((None, None, SAVES, SAVES, EVALUATIONS))
        if after is None:
            return cls(number, generator.uniform(0, seconds), ranks=ranks, workers_too=workers_too)
        # A checkpoint of these networks takes some 30 ms, and an evaluation 20.
        return cls(number, generator.uniform(0, 0.03), after, generator.randint(1, 3), ranks, workers_too)

    def strike(self, children: list[Any], shared: Any) -> int | None:
        """Waits for the instant, sends the signal and returns the phase that it has met; None if all had ended."""
        deadline = time.monotonic() + SECONDS_OF_A_RUN
        while self.after is not None and shared[self.after] < self.count and time.monotonic() < deadline:
            if all(child.exitcode is not None for child in children):
                return None
            time.sleep(0.0002)
        time.sleep(self.delay)
        if any(child.exitcode is not None for child in children):
            return None
        phase = shared[PHASE]
        for rank in self.ranks:
            if self.workers_too and shared[PHASE] != START:
                os.killpg(children[rank].pid, self.signal)
            else:
                os.kill(children[rank].pid, self.signal)
        return phase


@dataclass
class Tally:
    """What has been met, over all runs."""

    by_signal: Counter = field(default_factory=Counter)
    by_phase: Counter = field(default_factory=Counter)
    resumed: int = 0
    equal: int = 0
    lost: list[int] = field(default_factory=list)  # optimizer steps

    @property
    def interruptions(self) -> int:
        return sum(self.by_signal.values())


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def assert_whole(checkpoint: Path) -> None:
    """Checks a checkpoint against its manifest, and that nothing else is in it."""
    listed = json.loads((checkpoint / "manifest.json").read_text())["files"]
    found = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    assert found == {*listed, "manifest.json"}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"} <= listed.keys()
    for name, of_file in listed.items():
        assert hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() == of_file["sha256"], name


def holds_result(folder: Path) -> bool:
    """Whether a run has written all; the fingerprint of its data, by which one resumes, is then gone."""
    return (folder / METRICS_FILE).is_file() and not (folder / FINGERPRINT_FILE).is_file()


def without_timings(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if not name.endswith(("_runtime", "_per_second"))}


def outcome(folder: Path) -> dict[str, Any]:
    """Returns all that must be equal: the figures, their history, and which checkpoint was the best."""
    state = json.loads((checkpoints(folder)[-1] / "trainer_state.json").read_text())
    return {
        "metrics": without_timings(json.loads((folder / "metrics.json").read_text())["metrics"]),
        "history": [without_timings(entry) for entry in json.loads((folder / HISTORY_FILE).read_text())],
        "best": (state["best_global_step"], state["best_metric"], Path(state["best_model_checkpoint"] or "").name),
    }


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    assert outcome(folder) == outcome(undisturbed)
    best = outcome(folder)["best"][2]
    for name in filter(None, ("", best)):
        assert_same_weights(folder / name, undisturbed / name)
    assert_same_weights(folder, undisturbed)


def assert_same_weights(folder: Path, other: Path) -> None:
    one, two = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def run_undisturbed(words: list[str], folder: Path, processes: int) -> float:
    """Runs the command to its end and returns the seconds that it took."""
    began = time.monotonic()
    children, _ = start([*words, "--output_dir", str(folder)], folder.with_suffix(".log"), processes)
    codes = wait(children)
    assert codes == [0] * processes, folder.with_suffix(".log").read_text()[-3000:]
    return time.monotonic() - began


def run_interrupted(
    words: list[str],
    folder: Path,
    processes: int,
    interruptions: list[Interruption],
    interval: int,
    tally: Tally,
) -> None:
    """Runs the command again and again, each time interrupted, and at last to its end.

    `interval` is the number of optimizer steps between two checkpoints.
    """
    log = folder.with_suffix(".log")
    log.touch()
    command = [*words, "--output_dir", str(folder)]
    for interruption in interruptions:
        before = {path.name for path in checkpoints(folder)}
        said_before = len(log.read_text())
        children, shared = start(command, log, processes)
        phase = interruption.strike(children, shared)
        codes = wait(children)
        said = log.read_text()[said_before:]
        if before and shared[PHASE] != START:
            newest = max(before, key=lambda name: int(name.split("-")[1]))
            assert f"it resumes from {newest}." in said, said[-3000:]
            tally.resumed += 1
        if phase is None:
            assert codes == [0] * processes, said[-3000:]
            return
        assert "Traceback" not in said or processes > 1, said[-3000:]
        if codes == [0] * processes or holds_result(folder):
            return  # the signal came when all was done
        tally.by_signal[interruption.signal.name] += 1
        tally.by_phase[PHASES[phase]] += 1
        assert not list(folder.glob("corrupt-*"))
        for checkpoint in checkpoints(folder):
            assert_whole(checkpoint)
        newest = int(checkpoints(folder)[-1].name.split("-")[1]) if checkpoints(folder) else 0
        if interruption.signal in _STOPS and phase in (TRAINING, EVALUATION, SAVING):
            own = codes[interruption.ranks[0]]
            assert own in (128 + interruption.signal, -interruption.signal), (codes, said[-3000:])
            if own > 0:
                assert f"Interrupted by {interruption.signal.name} after step {newest}; saved." in said, said[-3000:]
                # A signal may come before the first step of a run that resumes, which has counted none yet.
                resumed_from = max((int(name.split("-")[1]) for name in before), default=0)
                assert newest == (shared[STEP] or resumed_from)
        if shared[STEP]:
            tally.lost.append(shared[STEP] - newest)
            assert shared[STEP] - newest <= interval
    children, shared = start(command, log, processes)
    assert wait(children) == [0] * processes, log.read_text()[-3000:]
