"""What the tests of the Hub share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run's result, and with it what must stay at home."""
    folder = tmp_path / "flowers"
    shutil.copytree(finished_run, folder)
    (folder / "checkpoint-99").mkdir()
    (folder / "checkpoint-99" / "model.safetensors").write_bytes(b"weights of a checkpoint")
    for name in ("optimizer.pt", "training_args.bin", ".secret"):
        (folder / name).write_bytes(b"\x80\x04N.")
    return folder
