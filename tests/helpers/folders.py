"""Folders of files that several tests read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image


def touch(root: Path, *names: str) -> Path:
    """Make empty files, for tests that open no image; return the folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_images(root: Path, *names: str) -> Path:
    """Write images of 2 x 3 pixels; return the folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.zeros((2, 3), dtype=np.uint8)).save(root / name)
    return root
