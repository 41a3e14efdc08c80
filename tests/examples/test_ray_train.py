"""`examples/ray_train.py` on two CPU workers: the result, killed workers, a lost folder, a mistake.

Run by `make test-ray`, which installs Ray.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_finetune import FinetuneResult, finetune
from hf_finetune.training.checkpoints.store import list_checkpoints
from tests.helpers.processes import REPOSITORY
from tests.helpers.tiny import write_recipe

pytest.importorskip("ray.train.torch")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def recipe(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5 has no BatchNorm, so that two processes give what one gives, and the loader's workers are forked."""
    return write_recipe(
        tmp_path_factory.mktemp("recipe"),
        dataset=str(image_folder),
        model_type="lenet5",
        model_config=None,
        image_size=32,
        train_transforms=[{"RandomCrop": {"size": 16, "padding": 2}}, {"Resize": {"size": 32}}],
        num_train_epochs=10,
        dataloader_num_workers=1,
    )


@pytest.fixture(scope="module")
def one_process(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """What one process learns without Ray."""
    return finetune(recipe, output_dir=tmp_path_factory.mktemp("one") / "output")


class Run:
    """The example in a process of its own, whose printed lines go to a file."""

    def __init__(self, folder: Path, recipe: Path, *flags: str):
        self.output, self.storage, self.log = folder / "output", folder / "storage" / "run", folder / "log.txt"
        words = ["--recipe", str(recipe), "--output_dir", str(self.output), "--storage_path", str(folder / "storage")]
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "RAY_DEDUP_LOGS": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "examples/ray_train.py", *words, "--name", "run", *flags],
                cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def kill_workers(self, *ranks: int) -> None:
        """Kill workers once Ray has its first copy of the folder."""
        deadline = time.monotonic() + 200
        while not (self.storage / "checkpoint_manager_snapshot.json").is_file():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)
        for rank in ranks:
            os.kill(int(re.findall(rf"pid=(\d+)\) world_rank={rank},", self.log.read_text())[-1]), signal.SIGKILL)

    def end(self) -> str:
        """Wait for the end, and return what was printed."""
        self.process.wait(300)
        return self.log.read_text()

    def check_result(self, one_process: FinetuneResult) -> None:
        """Check that the weights are those of one process, in the folder of the run and in Ray's copy."""
        printed, expected = self.end(), one_process.model.state_dict()
        assert self.process.returncode == 0, printed[-3000:]
        for weights in (self.output, Path(re.search("Ray's copy: (.*)", printed)[1])):
            learned = load_file(weights / "model.safetensors")
            assert all(torch.allclose(learned[name], expected[name], rtol=0, atol=1e-5) for name in expected)
        assert f"test_accuracy {one_process.metrics['test_accuracy']:.4f}" in printed


def test_a_lost_folder_comes_back_from_ray(recipe, tmp_path, one_process):
    run = Run(tmp_path, recipe)
    run.kill_workers(0, 1)
    run.output.rename(tmp_path / "lost")
    run.check_result(one_process)
    assert "An interrupted run is here; it resumes from checkpoint-" in run.log.read_text()
    assert "signals do not save it" in run.log.read_text()


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint(recipe, tmp_path, one_process):
    run = Run(tmp_path, recipe, "--max_failures", "1")
    run.kill_workers(1)
    run.check_result(one_process)
    assert "An interrupted run is here; it resumes from checkpoint-" in run.log.read_text()


def test_a_mistake_is_one_line_and_code_2(recipe, tmp_path):
    run = Run(tmp_path, recipe, "--max_failures", "0", "--dataset", str(tmp_path / "nothing"))
    assert run.end().splitlines() and run.process.returncode == 2, run.log.read_text()[-3000:]
    assert re.search(r"^error: .*nothing", run.log.read_text(), re.M)
    assert not list_checkpoints(run.output)
