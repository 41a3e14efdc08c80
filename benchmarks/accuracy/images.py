"""The weights that all programs start from, and how many images they are tested on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

TEST_IMAGES = 2_000


def checkpoint_of_size(checkpoint: Path, size: int, folder: Path) -> Path:
    """Copy a checkpoint of timm so that its image processor prepares images of another size, and return the copy."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, size, size]
    (folder / "config.json").write_text(json.dumps(config))
    return folder
