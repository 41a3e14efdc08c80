"""The files in the folder of a run that several packages know: their names, and their permissions."""

from __future__ import annotations

import os
from pathlib import Path

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.json"  # written last: a folder that has it holds a finished run


def apply_umask(folder: Path) -> None:
    """Give the weights in a folder the permissions of any new file: safetensors writes them for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~mask)
