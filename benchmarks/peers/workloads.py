"""What the programs train on: folders of images, and the random weights for a program that begins with a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Image, load_dataset
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from benchmarks.harness import Session
from benchmarks.images import hub_copy, photograph_folder
from benchmarks.peers.programs import RESNET18

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, which the programs use where nothing is said

_CLASSES = 8  # of photographs; one program's accuracy among the first five needs as many


@dataclass(frozen=True)
class Workload:
    """A training of one epoch.

    Attributes:
        heading: For the table.
        size: Pixels of the images' sides.
        batch: Images of a step.
        images: Training images, a multiple of `batch`, so that all programs take the same steps.
        folder: Writes the images and returns their folder, with train and test.
        tests: Whether test is more than train again, so that an accuracy says something.
    """

    heading: str
    size: int
    batch: int
    images: int
    folder: Callable[[Session, int], Path]
    tests: bool = True


def write_images(folder: Path, hub: Path, images: int, tests: int, png: bool = False) -> Path:
    """Write so many training images of CIFAR-10, the same number of each class, and the first test images.

    Args:
        folder: Where; a folder that is there is left as it is.
        hub: The copy of CIFAR-10 in the Hub's layout.
        images: Training images.
        tests: Test images.
        png: As PNG files; else as they are in the copy.
    """
    if folder.exists():
        return folder
    splits = load_dataset(str(hub)).cast_column("img", Image(decode=png))
    names = splits["train"].features["label"].names
    labels = np.array(splits["train"]["label"])
    order = np.random.default_rng(0).permutation(len(labels))
    rows = [int(row) for label in range(len(names)) for row in order[labels[order] == label][: images // len(names)]]
    for split, chosen in {"train": rows, "test": range(tests)}.items():
        for row in splits[split].select(chosen):
            path = folder / split / names[row["label"]]
            path.mkdir(parents=True, exist_ok=True)
            path /= f"{len(list(path.iterdir())):04d}"
            if png:
                row["img"].save(path.with_suffix(".png"))
            else:
                path.with_suffix(".jpg").write_bytes(row["img"]["bytes"])
    return folder


def random_checkpoint(folder: Path, size: int, classes: int) -> Path:
    """Write a ResNet-18 with random weights and its image processor as a folder of Transformers."""
    if not folder.exists():
        config = ResNetConfig(**RESNET18)
        config.num_labels = classes
        ResNetForImageClassification(config).save_pretrained(folder)
        sides = {"height": size, "width": size}
        ViTImageProcessor(size=sides, image_mean=_MEAN, image_std=_STD).save_pretrained(folder)
    return folder


def _cifar10(session: Session, images: int) -> Path:
    hub = hub_copy(session, "cifar10")
    return write_images(session.folder / f"cifar10-{images}", hub, images, session.size(1_000, 60), png=True)


def _photographs(session: Session, images: int) -> Path:
    folder = photograph_folder(session, "imagenet", images, _CLASSES)
    if not (folder / "test").exists():
        shutil.copytree(folder / "train", folder / "test")
    return folder


WORKLOADS = {
    "cifar10": Workload("CIFAR-10 as PNG files, 32 px", 32, 128, 2_560, _cifar10),
    "photographs": Workload("photographs, 224 px", 224, 16, 96, _photographs, tests=False),
}
QUICK = {
    "cifar10": Workload("quick", 32, 16, 80, _cifar10),
    "photographs": Workload("quick", 64, 4, 20, _photographs, tests=False),
}
