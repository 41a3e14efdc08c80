"""One, two and four processes are one run: its pictures in their order, its losses, its weights, its evaluation."""

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
from tests.test_processes import REPOSITORY, run_command
from tests.tiny import write_recipe

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
    """Returns the pictures of each step, in the order in which one process would have seen them."""
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


def test_a_process_that_hangs_ends_the_run(picture_folder, tmp_path):
    """Its peers wait for `ddp_timeout`, not for the half hour that gloo would."""
    recipe = write_recipe(tmp_path, num_train_epochs=1000, eval_strategy="no", save_strategy="no", ddp_timeout=10)
    words = ["--load_best_model_at_end", "false", "--dataset", str(picture_folder)]
    output = tmp_path / "output"
    script = str(REPOSITORY / "scripts" / "run_finetune.py")
    command = [*LAUNCH, "2", script, "--recipe", str(recipe), *words, "--output_dir", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launcher:
        try:
            said = next(line for line in launcher.stdout if line.startswith("epoch"))
            children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
            os.kill(int(children[1]), signal.SIGSTOP)
            began = time.monotonic()
            said += launcher.stdout.read()
        finally:
            launcher.kill()
    assert launcher.returncode != 0 and "Timed out waiting" in said, said[-3000:]
    assert time.monotonic() - began < 90
