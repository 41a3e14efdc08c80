"""The commands as they are typed, without and with a launcher: killed, started again, and equal in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.harness import assert_same_weights, assert_whole, checkpoints
from tests.helpers.processes import REPOSITORY, TWO_PROCESSES
from tests.helpers.tiny import write_recipe

pytestmark = pytest.mark.faults

_COMMAND = [sys.executable, "-m", "hf_finetune", "train"]
_LAUNCHED = [*TWO_PROCESSES, str(REPOSITORY / "scripts" / "run_finetune.py")]
_SECONDS = 240


def start(command: list[str], log: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def wait_for(log: Path, word: str, process: subprocess.Popen, after: int) -> None:
    deadline = time.monotonic() + _SECONDS
    while word not in log.read_text()[after:] and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.fixture
def words(image_folder: Path, tmp_path: Path) -> list[str]:
    recipe = write_recipe(tmp_path, global_batch_size=4, num_train_epochs=12, lr_milestones=[8])
    return ["--recipe", str(recipe), "--dataset", str(image_folder)]


def test_the_command_that_is_killed_at_any_instant_of_its_life(words: list[str], tmp_path: Path):
    log = tmp_path / "log"
    began = time.monotonic()
    assert start([*_COMMAND, *words, "--output_dir", str(tmp_path / "undisturbed")], log).wait(_SECONDS) == 0
    seconds, generator = time.monotonic() - began, random.Random(0)
    command = [*_COMMAND, *words, "--output_dir", str(tmp_path / "run")]
    codes = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        process = start(command, log)
        time.sleep(generator.uniform(0, seconds))
        process.send_signal(number)
        codes.append(process.wait(_SECONDS))
        if codes[-1] == 0:
            break
        assert codes[-1] in (-number, 128 + number)
        for checkpoint in checkpoints(tmp_path / "run"):
            assert_whole(checkpoint)
    print(f"{len(codes)} of the plain command in {seconds:.1f} s each: exit codes {codes}")
    assert codes[-1] == 0 or start(command, log).wait(_SECONDS) == 0
    assert_same_weights(tmp_path / "run", tmp_path / "undisturbed")


def workers_of(launcher: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def test_two_processes_that_their_launcher_started(words: list[str], tmp_path: Path):
    """The signal is sent to the launcher, as a scheduler does, or one of its processes is lost."""
    log = tmp_path / "log"
    assert start([*_LAUNCHED, *words, "--output_dir", str(tmp_path / "undisturbed")], log).wait(_SECONDS) == 0
    command = [*_LAUNCHED, *words, "--output_dir", str(tmp_path / "run")]
    generator, codes = random.Random(0), []
    for number, whom in (
        (signal.SIGTERM, "launcher"),
        (signal.SIGKILL, "process 1"),
        (signal.SIGINT, "launcher"),
        (signal.SIGTERM, "process 1"),
        (signal.SIGKILL, "all"),
    ):
        written = len(log.read_text())
        launcher = start(command, log)
        wait_for(log, "learning rate", launcher, written)
        time.sleep(generator.uniform(0, 0.1))
        if launcher.poll() is not None:
            break
        if whom == "process 1":
            os.kill(workers_of(launcher)[1], number)
        elif whom == "all":
            for pid in (launcher.pid, *workers_of(launcher)):
                os.kill(pid, number)
        else:
            launcher.send_signal(number)
        codes.append((number.name, whom, launcher.wait(_SECONDS)))
        said = log.read_text()[written:]
        if number in (signal.SIGTERM, signal.SIGINT):
            assert "; saved. The same command resumes the run." in said, said[-3000:]
            assert codes[-1][2] != 0
        for checkpoint in checkpoints(tmp_path / "run"):
            assert_whole(checkpoint)
    print(f"launched: {codes}")
    assert start(command, log).wait(_SECONDS) == 0, log.read_text()[-3000:]
    assert_same_weights(tmp_path / "run", tmp_path / "undisturbed")
