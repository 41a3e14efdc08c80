"""Whoever loads the training images, and from wherever a run goes on, the network is given the same ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.launched import run_in
from tests.helpers.processes import REPOSITORY
from tests.helpers.seen_images import main

IMAGES = 64


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The images of two epochs in one process without workers, and the folder with its checkpoints."""
    folder = tmp_path_factory.mktemp("undisturbed")
    seen = main(str(folder))
    assert len(seen) == 2 * IMAGES and len(set(seen.values())) == 2 * IMAGES
    return folder, seen


@pytest.mark.parametrize("workers", ["1", "2"])
def test_with_workers(undisturbed, tmp_path, workers):
    assert main(str(tmp_path), workers) == undisturbed[1]


def test_with_two_processes(undisturbed, tmp_path):
    completed = run_in(2, REPOSITORY / "tests" / "helpers" / "seen_images.py", tmp_path)
    assert completed.returncode == 0, completed.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"seen_{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) == len(second) == IMAGES and not first.keys() & second.keys()
    assert first | second == undisturbed[1]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_after_a_resume_in_mid_epoch(undisturbed, tmp_path, workers):
    folder, seen = undisturbed
    resumed = main(str(tmp_path), workers, str(folder / "checkpoint-2"))  # of four steps an epoch
    assert len(resumed) == 2 * IMAGES - 2 * 16
    assert resumed.items() <= seen.items()
