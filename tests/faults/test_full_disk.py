"""A disk that is too small, and one that fills in mid-run: the last whole checkpoint stays, and one line says why."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.child import PHASE, RESULT, SAVES, TRAINING
from tests.faults.harness import assert_same_end, assert_whole, checkpoints, start, wait
from tests.helpers.tiny import TINY_RESNET, write_recipe

pytestmark = pytest.mark.faults

_MEGABYTE = 1 << 20
# 2.3 MB of weights: a checkpoint takes 4.6 MB, and three of them and the result 16 MB.
_RESNET = {**TINY_RESNET, "hidden_sizes": [64, 128], "depths": [1, 2]}


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of `request.param` megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = f"size={request.param}m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root may mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="module")
def command(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    recipe = write_recipe(tmp_path_factory.mktemp("recipe"), global_batch_size=4, model_config=_RESNET)
    return ["--recipe", str(recipe), "--dataset", str(image_folder)]


def go_on(command: list[str], folder: Path) -> tuple[int, str]:
    log = folder.parents[1] / "go_on.log"  # not on the small disk
    children, _ = start([*command, "--output_dir", str(folder)], log)
    return wait(children)[0], log.read_text()


@pytest.mark.parametrize("small_disk", [6], indirect=True)
def test_a_disk_that_is_too_small_is_refused_before_training(command, small_disk):
    code, said = go_on(command, small_disk / "run")
    assert code == 2
    error = said.splitlines()[-1]
    assert re.fullmatch(
        r"hf-finetune: error: output_dir: 3 checkpoints of \d\.\d MB and the result need \d+\.\d MB on the disk of"
        rf" {small_disk}/run and 6\.3 MB are free: \d\.\d MB are missing; free them, or use another --output_dir or a"
        r" lower --save_total_limit\.",
        error,
    )
    needed, free, missing = (float(word) for word in re.findall(r"(\d+\.\d) MB (?:on|are free|are missing)", error))
    assert missing == pytest.approx(needed - free, abs=0.11)
    assert not list((small_disk / "run").iterdir())


def fill(disk: Path, left: int) -> Path:
    """Writes a file that leaves so many bytes."""
    room = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - left)
    return filler


@pytest.mark.parametrize("small_disk", [16], indirect=True)
@pytest.mark.parametrize("left", [0, 8192, 3 * _MEGABYTE // 2, 3 * _MEGABYTE, 4_450_000])
def test_a_disk_that_fills_keeps_the_last_whole_checkpoint(command, undisturbed, small_disk, tmp_path, left):
    """With so much left, a checkpoint ends in its first file, in the weights, the optimizer or what comes after."""
    folder, log = small_disk / "run", tmp_path / "first.log"
    children, shared = start([*command, "--output_dir", str(folder)], log)
    while shared[SAVES] < 1 or shared[PHASE] != TRAINING:
        time.sleep(0.0002)
    filler = fill(small_disk, left)
    code, said = wait(children)[0], log.read_text()
    assert code == 2, said[-3000:]
    error = said.splitlines()[-1]
    assert "Traceback" not in said
    assert re.fullmatch(
        rf"hf-finetune: error: output_dir: the disk of {folder} is full: a checkpoint of \d\.\d MB could not be"
        r" written, \d\.\d MB are free; free \d\.\d MB or more\. checkpoint-17 is whole, and the same command"
        r" resumes from it\.",
        error,
    )
    assert [checkpoint.name for checkpoint in checkpoints(folder)] == ["checkpoint-17"]
    assert_whole(folder / "checkpoint-17")
    assert not (folder / ".unfinished").exists()
    filler.unlink()
    code, said = go_on(command, folder)
    assert code == 0 and "it resumes from checkpoint-17." in said
    assert_same_end(folder, undisturbed)


@pytest.mark.parametrize("small_disk", [16], indirect=True)
def test_a_disk_that_is_full_when_the_result_is_due(command, undisturbed, small_disk, tmp_path):
    folder, log = small_disk / "run", tmp_path / "first.log"
    children, shared = start([*command, "--output_dir", str(folder)], log)
    while shared[PHASE] != RESULT:
        time.sleep(0.0002)
    filler = fill(small_disk, 0)
    code, said = wait(children)[0], log.read_text()
    assert code == 2 and "Traceback" not in said, said[-3000:]
    assert "is full: the result of 2." in said.splitlines()[-1] and "checkpoint-51 is whole" in said.splitlines()[-1]
    assert not (folder / "metrics.json").exists()
    filler.unlink()
    code, said = go_on(command, folder)
    assert code == 0 and "it resumes from checkpoint-51." in said
    assert_same_end(folder, undisturbed)
