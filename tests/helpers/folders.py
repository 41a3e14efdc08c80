"""Folders of files that several tests read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image


def touch(root: Path, *names: str) -> Path:
    """Makes empty files, for tests that open no image; returns the folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_images(root: Path, *names: str) -> Path:
    """Writes images of 2 x 3 pixels; returns the folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.zeros((2, 3), dtype=np.uint8)).save(root / name)
    return root
