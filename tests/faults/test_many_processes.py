"""One, two and four processes are one run: its images in their order, its losses, its weights, its evaluation."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.many_processes import EVALUATED, FAMILIES, GLOBAL_BATCH, TRAINED
from tests.helpers.processes import REPOSITORY, run_command
from tests.helpers.tiny import write_recipe

pytestmark = pytest.mark.faults
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
PROCESSES = (1, 2, 4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[int, Path]:
    """By the number of processes, where the trainings of `many_processes.py` wrote."""
    folders = {}
    for count in PROCESSES:
        folders[count] = tmp_path_factory.mktemp(f"processes_{count}")
        script = str(REPOSITORY / "tests" / "faults" / "many_processes.py")
        completed = run_command([*LAUNCH, str(count), script, str(folders[count])])
        assert completed.returncode == 0, completed.stderr[-3000:]
    return folders


def read(folder: Path, name: str, processes: int) -> list[dict]:
    return [json.loads((folder / f"{name}_{rank}.json").read_text()) for rank in range(processes)]


def steps(records: list[dict], passes: int, count: int) -> list[list[int]]:
    """Returns the images of each step, in the order in which one process would have seen them."""
    order = [list(itertools.chain(*together)) for together in zip(*(record["seen"] for record in records), strict=True)]
    micro_batches = -(-count // (GLOBAL_BATCH // passes))
    found = []
    for start in range(0, len(order), micro_batches):  # an epoch
        epoch = order[start : start + micro_batches]
        found += [list(itertools.chain(*epoch[at : at + passes])) for at in range(0, len(epoch), passes)]
    return found


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("count", TRAINED)
@pytest.mark.parametrize("family", FAMILIES)
def test_they_train_alike(folders, family, count, passes):
    name = f"{family}-{count}-{passes}"
    one = read(folders[1], name, 1)
    expected = steps(one, passes, count)
    assert len(expected) == 2 * -(-count // GLOBAL_BATCH) and sum(map(len, expected)) == 2 * count
    weights = load_file(folders[1] / f"{name}.safetensors")
    for processes in PROCESSES[1:]:
        records = read(folders[processes], name, processes)
        assert steps(records, passes, count) == expected
        assert records[0]["losses"] == pytest.approx(one[0]["losses"], abs=1e-5)
        assert len(records[0]["losses"]) == len(expected)
        for key, weight in load_file(folders[processes] / f"{name}.safetensors").items():
            torch.testing.assert_close(weight, weights[key], atol=2e-6, rtol=0)


@pytest.mark.parametrize("count", EVALUATED)
@pytest.mark.parametrize("family", FAMILIES)
def test_they_evaluate_alike(folders, family, count):
    name = f"{family}-{TRAINED[0]}-1"
    one = read(folders[1], name, 1)[0]["evaluated"][str(count)]
    assert one["samples"] == count
    for processes in PROCESSES[1:]:
        for record in read(folders[processes], name, processes):
            evaluated = record["evaluated"][str(count)]
            assert evaluated["labels"] == one["labels"] and evaluated["samples"] == count
            assert evaluated["loss"] == pytest.approx(one["loss"], abs=1e-5)
            assert evaluated["accuracy"] == one["accuracy"]


class Job:
    """A long run of two processes, which says what it does."""

    def __init__(self, image_folder: Path, folder: Path, restarts: int, **settings: object) -> None:
        settings = {"eval_strategy": "no", "load_best_model_at_end": False, "validation_fraction": 0, **settings}
        words = ["--recipe", str(write_recipe(folder, **settings)), "--dataset", str(image_folder)]
        launcher = [*LAUNCH, "2", "--max_restarts", str(restarts), str(REPOSITORY / "scripts" / "run_finetune.py")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
        self.launcher = subprocess.Popen(
            [*launcher, *words, "--output_dir", str(folder / "output")],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def send_to_the_second(self, number: int, after: str) -> str:
        """Sends a signal to the second process once a line of the output begins so, and returns what is said then."""
        with self.launcher:
            try:
                next(line for line in self.launcher.stdout if line.startswith(after))
                task = Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children")
                os.kill(int(task.read_text().split()[1]), number)
                return self.launcher.stdout.read()
            finally:
                self.launcher.kill()


def test_a_process_that_hangs_ends_the_run(image_folder, tmp_path):
    """Its peers wait for `ddp_timeout`, not for the half hour that gloo would."""
    job = Job(image_folder, tmp_path, 0, num_train_epochs=1000, save_strategy="no", ddp_timeout=10)
    began = time.monotonic()
    said = job.send_to_the_second(signal.SIGSTOP, after="epoch")
    assert job.launcher.returncode != 0 and "Timed out waiting" in said, said[-3000:]
    assert time.monotonic() - began < 120


def test_a_process_that_dies_is_started_again(image_folder, tmp_path):
    """With the addresses that the first attempt left in the launcher's store, no second one would come about."""
    job = Job(image_folder, tmp_path, 2, num_train_epochs=30, save_strategy="steps", save_steps=5)
    said = job.send_to_the_second(signal.SIGKILL, after="epoch   2.00")
    assert job.launcher.returncode == 0, said[-3000:]
    assert "An interrupted run is here; it resumes from checkpoint-" in said and "The model is in" in said
