"""The images: real ones if there is a folder of them, otherwise generated ones of the same size.

DIR/hub/datasets/uoft-cs/cifar10 and DIR/hub/datasets/ylecun/mnist are copies in the Hub's layout; DIR/imagenet_sample
holds photographs in one folder per class.
"""

from __future__ import annotations

import io
import shutil
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image

from benchmarks.harness import Session

# Name, folder below DIR/hub/datasets, columns of images and labels, side in pixels, mode, images by split.
_COPIES = {
    "cifar10": ("uoft-cs/cifar10", "plain_text", "img", 32, "RGB", {"train": 50_000, "test": 10_000}),
    "mnist": ("ylecun/mnist", "mnist", "image", 28, "L", {"train": 60_000, "test": 10_000}),
}
_QUICK = {"train": 256, "test": 64}
CIFAR10_MEAN, CIFAR10_STD = [125.307, 122.961, 113.8575], [51.5865, 50.847, 51.255]  # those of the package's recipes
_IMAGENET_SIDE = 500  # the long side of most images of ImageNet, in pixels
_PHOTOGRAPH = (4000, 3000)


def hub_copy(session: Session, name: str) -> Path:
    """Return a folder with CIFAR-10 ("cifar10") or MNIST ("mnist"), or a substitute, in the Hub's layout."""
    hub_id, config, column, side, mode, sizes = _COPIES[name]
    if session.data is not None and not session.quick:
        folder = session.data / "hub" / "datasets" / hub_id
        if folder.is_dir():
            return folder
    folder = session.folder / name
    if not folder.exists():
        (folder / config).mkdir(parents=True)
        generator = np.random.default_rng(0)
        patterns = generator.integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
        for split, count in (_QUICK if session.quick else sizes).items():
            labels = np.arange(count) % 10
            images = [
                {"bytes": _encode(_noise(generator, (side, side), patterns[label]).convert(mode), mode), "path": None}
                for label in labels
            ]
            features = Features({column: Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
            dataset = Dataset.from_dict({column: images, "label": labels}, features=features)
            dataset.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    return folder


def _noise(generator: np.random.Generator, size: tuple[int, int], pattern: np.ndarray | None = None) -> PIL.Image.Image:
    """Return smooth noise of (width, height), over an enlarged pattern of uint8 (height, width, 3) if there is one."""
    coarse = generator.integers(0, 256, (max(2, size[1] // 16), max(2, size[0] // 16), 3), dtype=np.uint8)
    noise = PIL.Image.fromarray(coarse).resize(size, PIL.Image.Resampling.BICUBIC)
    if pattern is None:
        return noise
    return PIL.Image.blend(PIL.Image.fromarray(pattern).resize(size, PIL.Image.Resampling.BICUBIC), noise, 0.5)


def _encode(image: PIL.Image.Image, mode: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG" if mode == "RGB" else "PNG")
    return file.getvalue()


def _sample_photographs(session: Session) -> list[PIL.Image.Image]:
    """Return the sample photographs, or smooth noise of ImageNet's size."""
    if session.data is not None and not session.quick:
        paths = sorted((session.data / "imagenet_sample").glob("*/*.[jJ][pP]*[gG]"))
        if paths:
            return [PIL.Image.open(path).convert("RGB") for path in paths]
    generator = np.random.default_rng(0)
    return [_noise(generator, (_IMAGENET_SIDE, 375)) for _ in range(4 if session.quick else 50)]


def photograph_folder(session: Session, kind: str, count: int, classes: int = 2) -> Path:
    """Return a folder of class folders below train/ with `count` JPEGs of quality 90.

    `kind` is "imagenet", with a long side of 500 pixels, or "camera", 4000 x 3000. The sample photographs are resized,
    and repeated until there are enough.
    """
    folder = session.folder / f"photographs-{kind}-{count}-{classes}"
    if folder.exists():
        return folder
    samples = _sample_photographs(session)
    for number, image in enumerate(islice(cycle(samples), count)):
        path = folder / "train" / f"class_{number % classes}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= len(samples):
            earlier = number % len(samples)
            shutil.copyfile(folder / "train" / f"class_{earlier % classes}" / f"{earlier:04d}.jpg", path)
            continue
        scale = _IMAGENET_SIDE / max(image.size)
        size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
        if kind == "camera":
            size = (1000, 750) if session.quick else _PHOTOGRAPH
        image.resize(size, PIL.Image.Resampling.BICUBIC).save(path, quality=90)
    return folder
