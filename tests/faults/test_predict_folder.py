"""Predictions of two processes, killed at random, end with exactly the tables of an undisturbed call."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.helpers.processes import REPOSITORY, TWO_PROCESSES

pytestmark = pytest.mark.faults
COPIES = 100  # of each of 24 images


@pytest.fixture
def images(image_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted((image_folder / "test").rglob("*.png")) * COPIES):
        os.link(path, folder / f"{number:05d}.png")
    (folder / "00100x.png").write_text("no image")
    return folder


def start(model: Path, images: Path, output: Path) -> subprocess.Popen[str]:
    words = ["predict", str(model), str(images), "--output", str(output), "--format", "parquet", "--top_k", "3"]
    workers = ["--batch_size", "16", "--shard_size", "48", "--dataloader_num_workers", "1"]
    return subprocess.Popen(
        [*TWO_PROCESSES, "-m", "hf_finetune", *words, *workers],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def descendants(process: int) -> list[int]:
    own = [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [process, *(number for child in own for number in descendants(child))]


def tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def kill_all(launcher: subprocess.Popen[str]) -> None:
    for process in descendants(launcher.pid):
        os.kill(process, signal.SIGKILL)


def test_killed_three_times_it_ends_with_the_undisturbed_tables(finished_run, images, tmp_path):
    undisturbed = start(finished_run, images, tmp_path / "whole")
    said = undisturbed.communicate()[0]
    assert "2,401 images, 1 of which cannot be read, in 51 tables" in said, said[-3000:]
    whole = {path.name: path.read_bytes() for path in tables(tmp_path / "whole")}
    assert sum(pq.read_table(path).num_rows for path in tables(tmp_path / "whole")) == 2401
    generator, output = random.Random(0), tmp_path / "killed"
    recorded: dict[str, int] = {}
    for _ in range(3):
        launcher = start(finished_run, images, output)
        target = len(tables(output)) + generator.randint(1, 12)
        while len(tables(output)) < target and launcher.poll() is None:
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.05))
        kill_all(launcher)
        launcher.communicate()
        for path in tables(output):  # whole from the moment on in which it has its name
            assert path.read_bytes() == whole[path.name]
        for record in (output / "_progress").glob("part-*.json"):  # and with a record never written again
            file = (output / record.name).with_suffix(".parquet").stat().st_ino
            assert recorded.setdefault(record.name, file) == file
    launcher = start(finished_run, images, output)
    said = launcher.communicate()[0]
    assert " of 51 tables are done; the others follow." in said, said[-3000:]
    assert {path.name: path.read_bytes() for path in tables(output)} == whole
    assert {path.name for path in output.iterdir()} == {*whole, "_manifest.json"}
    again = start(finished_run, images, output)
    assert "holds finished predictions" in again.communicate()[0] and again.returncode != 0
