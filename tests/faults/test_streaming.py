"""Streamed runs that are killed at any instant, or lose the Hub, end in the weights of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.dataset_server import DatasetServer
from tests.helpers.processes import REPOSITORY, TWO_PROCESSES, run_command
from tests.helpers.streamed import write_parquet, write_tars
from tests.helpers.tiny import write_recipe

pytestmark = pytest.mark.faults

KILLS = 4
SETTINGS = {
    "shuffle_buffer_size": 60,
    "num_train_epochs": 6,
    "lr_milestones": [2, 4],
    "save_strategy": "steps",
    "eval_strategy": "steps",
    "save_steps": 5,
    "eval_steps": 5,
    "max_eval_samples": 10,
}


def command(recipe: Path, dataset: str, output: Path, processes: int, workers: int) -> list[str]:
    launcher = [sys.executable] if processes == 1 else TWO_PROCESSES
    words = ["--recipe", str(recipe), "--dataset", dataset, "--output_dir", str(output), "--streaming"]
    return [
        *launcher,
        str(REPOSITORY / "scripts" / "run_finetune.py"),
        *words,
        "--dataloader_num_workers",
        f"{workers}",
    ]


def kill_after(words: list[str], steps: int, environment: dict[str, str]) -> bool:
    """Starts a run and kills all its processes after so many log lines; returns False if it ended before."""
    run = subprocess.Popen(
        words,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    seen = 0
    for line in run.stdout:
        seen += "learning rate" in line
        if seen == steps:
            # The launcher's processes are in sessions of their own.
            for process in (*psutil.Process(run.pid).children(recursive=True), run):
                process.kill()
            run.wait()
            return True
    run.wait()
    return False


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A dataset and the environment in which it is found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    folder = tmp_path / "dataset"
    if request.param == "tars":
        write_tars(folder, "test", 30, 2)
        yield str(write_tars(folder, "train", 203, 5)), environment
        return
    write_parquet(folder, "test", 30, files=2)
    write_parquet(folder, "train", 203, files=4, row_group=11)
    if request.param == "parquet":
        yield str(folder), environment
        return
    with DatasetServer({"me/pets": folder}) as server:
        environment = {name: value for name, value in environment.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        yield "me/pets", environment


@pytest.mark.parametrize(
    ("source", "processes", "workers"),
    [("parquet", 1, 2), ("parquet", 2, 1), ("tars", 1, 0), ("tars", 2, 2), ("hub", 1, 2), ("hub", 2, 1)],
    indirect=["source"],
)
def test_killed_runs_end_in_the_weights_of_an_undisturbed_one(source, tmp_path, processes, workers) -> None:
    dataset, environment = source
    recipe = write_recipe(tmp_path, **SETTINGS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    completed = subprocess.run(
        command(recipe, dataset, whole, processes, workers), cwd=REPOSITORY, env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr[-3000:]
    words = command(recipe, dataset, killed, processes, workers)
    draws = random.Random(f"{dataset} {processes} {workers}")
    kills = sum(kill_after(words, draws.randrange(3, 20), environment) for _ in range(KILLS))
    assert kills >= 2
    if not (killed / "metrics.json").is_file():
        completed = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
        assert completed.returncode == 0, completed.stderr[-3000:]
        assert "it resumes from checkpoint-" in completed.stdout
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    figures = [json.loads((folder / "metrics.json").read_text())["metrics"] for folder in (whole, killed)]
    for name in ("test_accuracy", "test_loss", "test_samples", "train_loss"):
        assert figures[0][name] == figures[1][name], name


def test_two_processes_go_on_and_count_each_image_once(tmp_path) -> None:
    dataset = write_parquet(tmp_path / "dataset", "train", 103, files=3, row_group=9)
    write_parquet(dataset, "test", 21, files=2)
    script = str(REPOSITORY / "tests" / "helpers" / "streamed_run.py")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    commands = ([str(whole), "1"], [str(resumed), "1", str(whole / "checkpoint-4")])
    for words in commands:
        completed = run_command([*TWO_PROCESSES, script, str(dataset), *words])
        assert completed.returncode == 0, completed.stderr[-3000:]
        assert (Path(words[0]) / "samples").read_text().startswith("21"), "each once, though 21 images are uneven"
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    rates = [entry["learning_rate"] for entry in json.loads((whole / "trainer_state.json").read_text())["log_history"]
             if "learning_rate" in entry]  # fmt: skip
    assert len(rates) == 21 and rates[6:8] == pytest.approx([0.05, 0.005])
