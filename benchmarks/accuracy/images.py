"""The images of all programs, as JPEG files in class folders, and the weights that all of them start from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from datasets import Image, load_dataset

TEST_IMAGES = 2_000
_CIFAR10 = "hub/datasets/uoft-cs/cifar10"


def write_images(folder: Path, data: Path, images: int) -> Path:
    """Write so many training images of CIFAR-10, the same number of each class, and the first 2,000 test images.

    Args:
        folder: Where; a folder that is there is left as it is.
        data: Holds the copy of CIFAR-10 in the Hub's layout.
        images: Training images.
    """
    if folder.exists():
        return folder
    hub = load_dataset(str(data / _CIFAR10)).cast_column("img", Image(decode=False))
    names = hub["train"].features["label"].names
    labels = np.array(hub["train"]["label"])
    order = np.random.default_rng(0).permutation(len(labels))
    rows = [int(row) for label in range(len(names)) for row in order[labels[order] == label][: images // len(names)]]
    for split, chosen in {"train": rows, "test": range(TEST_IMAGES)}.items():
        for row in hub[split].select(chosen):
            path = folder / split / names[row["label"]]
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{len(list(path.iterdir())):04d}.jpg").write_bytes(row["img"]["bytes"])
    return folder


def checkpoint_of_size(checkpoint: Path, size: int, folder: Path) -> Path:
    """Copy a checkpoint of timm so that its image processor prepares images of another size, and return the copy."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, size, size]
    (folder / "config.json").write_text(json.dumps(config))
    return folder
