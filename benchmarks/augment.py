"""Augmentation alone, in images a CPU second on one thread: whole batches against torchvision on one image each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import PIL.Image
import torch
from torchvision.transforms import v2

from benchmarks.harness import Answer, Row, Session, alternate, compare_seconds, per_second
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.data.transforms.randomness import draw_keys

_ITEMS: dict[str, dict[str, Any]] = {
    "ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "RandomGrayscale": {"p": 1.0},
    "GaussianBlur": {"kernel_size": 23, "sigma": [0.1, 2.0]},
    "RandomAutocontrast": {"p": 1.0},
    "RandomEqualize": {"p": 1.0},
    "RandomAffine": {"degrees": 15, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 5},
    "RandomPerspective": {"p": 1.0},
    "RandAugment": {},
    "TrivialAugmentWide": {},
    "AutoAugment": {},
}


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _images(batch: int, side: int) -> torch.Tensor:
    """Return smooth uint8 images of random colours, with the channels last in memory, as images are decoded."""
    coarse = torch.rand(batch, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(0)) * 255
    images = torch.nn.functional.interpolate(coarse, size=side, mode="bilinear").to(torch.uint8)
    return images.contiguous(memory_format=torch.channels_last)


def _compare(session: Session, name: str, side: int) -> tuple[Row, str]:
    """Return the row of a transform, and its figure with Pillow's images."""
    batch = session.size(64, 4)
    passes = session.size(1 if side == 224 else 20, 1)
    images, keys = _images(batch, side), draw_keys(0, 0, torch.arange(batch))
    ours = build_train_transforms([{name: _ITEMS[name]}], uniform=True)
    theirs = getattr(v2, name)(**_ITEMS[name])
    pillow = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

    def repeated(work: Callable[[], object]) -> Callable[[], float]:
        return lambda: _cpu_seconds(lambda: [work() for _ in range(passes)])

    samples = alternate(
        {
            "ours": repeated(lambda: ours.apply_to_batch(images, keys)),
            "stock": repeated(lambda: [theirs(image) for image in images]),
            "pillow": repeated(lambda: [theirs(image) for image in pillow]),
        },
        session.pairs,
    )
    show = per_second(batch * passes)
    row = compare_seconds(f"{name} at {side} px, batch {batch}", samples, show, 3)
    return row, f"{name} {side} px {show(statistics.median(samples['pillow']))}"


def measure(session: Session) -> Answer:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = [_compare(session, name, side) for name in _ITEMS for side in (224, 32)]
    finally:
        torch.set_num_threads(threads)
    return Answer(
        [row for row, _ in pairs],
        [
            "CPU seconds on a slow and shared machine. Stock is torchvision's v2 on uint8 tensors. On Pillow's images: "
            + ", ".join(pillow for _, pillow in pairs)
            + "."
        ],
    )
