"""What a training costs: images a second of large networks, and how the time of each part grows with its size.

python -m benchmarks.cost

All seconds are of one core: those of a step by the clock, with one thread, and all others by the processor time of the
process's threads together. A size is measured three times, and the median counts. Of each part `a + b * size ** c` is
fitted to the measurements by non-negative least squares of the relative errors, for the exponent c with the smallest
error.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from scipy.optimize import nnls
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from benchmarks.harness import Session, datasets_cache, quiet
from benchmarks.limit import Limit
from benchmarks.memory import write_table
from benchmarks.ours import TINY_RESNET, prepare_ours
from benchmarks.stock import Schedule
from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import build_dataset
from hf_finetune.data.fingerprint import fingerprint_of
from hf_finetune.data.sources.table import read_table
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.hub.model_card import ModelCardContext, write_model_card
from hf_finetune.jobs.evaluation_result import EvaluationResult

_EXPONENTS = np.arange(0.5, 2.51, 0.05)
_TIMES = 3
_SIDE, _BATCH = 224, 8
_CLASSES: dict[str, Any] = {"num_labels": 1000}
_JUDGED = 10_000  # images whose answers are counted

Network = Callable[[int], PreTrainedModel]


def resnet50(side: int) -> PreTrainedModel:
    """Return ResNet-50 with 1,000 classes."""
    return ResNetForImageClassification(ResNetConfig(**_CLASSES))


def vit_base(side: int) -> PreTrainedModel:
    """Return ViT-B/16 with 1,000 classes for images of a side in pixels."""
    return ViTForImageClassification(ViTConfig(**_CLASSES, image_size=side))


@dataclass(frozen=True)
class Growth:
    """How the seconds of a part grow: `fixed + factor * size ** exponent`, and the largest relative error of that."""

    fixed: float
    factor: float
    exponent: float
    error: float

    @classmethod
    def fit(cls, sizes: Sequence[float], seconds: Sequence[float]) -> Growth:
        """Fit the growth to measurements."""
        fits = []
        for exponent in _EXPONENTS:
            terms = np.stack([np.ones(len(sizes)), np.power(sizes, exponent)], axis=1) / np.array(seconds)[:, None]
            scale = terms.max(axis=0)
            (fixed, factor), residual = nnls(terms / scale, np.ones(len(sizes)))
            errors = np.abs(terms @ (fixed / scale[0], factor / scale[1]) - 1)
            fits.append((residual, cls(fixed / scale[0], factor / scale[1], float(exponent), float(errors.max()))))
        return min(fits, key=lambda fit: fit[0])[1]

    def __str__(self) -> str:
        return f"{self.fixed:.2g} s + {self.factor:.2g} s x n^{self.exponent:.2f} ({self.error:.0%})"


@contextmanager
def _processor_seconds(into: list[float]) -> Iterator[None]:
    gc.collect()
    began = time.process_time()
    yield
    into.append(time.process_time() - began)


def opening_a_folder(session: Session, files: int) -> list[float]:
    """Return the seconds to open, check and fingerprint a folder of photographs for the first time."""
    folder = session.folder / f"folder-{files}" / "train"
    for number in range(files):
        path = folder / f"class_{number % 10}" / f"{number}.jpg"
        if number < 10:
            path.parent.mkdir(parents=True)
            _noise(96).save(path)
        else:  # a file system allows some 65,000 links to a file
            path.hardlink_to(path.with_name(f"{number % 10}.jpg"))
    return _opened(session, folder.parent)


def opening_a_table(session: Session, rows: int) -> list[float]:
    """Return the seconds to open, check and fingerprint a Parquet table of images that was converted before."""
    return _opened(session, write_table(session, rows))


def _opened(session: Session, path: Path) -> list[float]:
    seconds: list[float] = []
    for _ in range(_TIMES):
        with datasets_cache(session), quiet():
            if path.is_file():
                read_table(path)  # converts it
            with _processor_seconds(seconds):
                fingerprint_of(build_dataset(DataArguments(dataset=str(path)), seed=0))
    return seconds


def preparing_an_image(session: Session, pixels: int) -> list[float]:
    """Return the seconds from a square JPEG file of so many pixels to a random crop of 224 pixels."""
    side = round(pixels**0.5)
    for number in range(_BATCH):
        path = session.folder / f"jpeg-{side}" / "train" / f"class_{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _noise(side).save(path, quality=90)
    trainer = prepare_ours(
        session,
        Schedule(_BATCH, max_steps=1),
        dataset=str(session.folder / f"jpeg-{side}"),
        model_type="resnet",
        model_config=TINY_RESNET,
        image_size=_SIDE,
        decode_cache="never",
        train_transforms=[{"RandomResizedCrop": {"size": _SIDE}}, "RandomHorizontalFlip"],
    ).trainer
    images: Any = trainer.train_dataset
    seconds: list[float] = []
    for _ in range(_TIMES):
        with _processor_seconds(seconds):
            trainer._prepare_inputs(images.__getitems__(range(_BATCH)))
    return [value / _BATCH for value in seconds]


def a_training_step(network: Network) -> Callable[[Session, int], list[float]]:
    """Return what measures the seconds of a step for each of two square images of so many pixels."""

    def measure(session: Session, pixels: int) -> list[float]:
        side = round(pixels**0.5)
        limit = Limit(network(side), Schedule(2), side)
        return [limit.seconds_per_step(1, warm_up=1) / 2 for _ in range(_TIMES)]

    return measure


def figures_and_files(session: Session, classes: int) -> list[float]:
    """Return the seconds from 10,000 images' logits to all figures, their files, plots and the model card."""
    names = [f"class {number}" for number in range(classes)]
    generator = torch.Generator().manual_seed(0)
    seconds: list[float] = []
    for _ in range(_TIMES):
        with tempfile.TemporaryDirectory(dir=session.folder) as written, _processor_seconds(seconds), quiet():
            metrics, batches = ClassificationMetrics(names), []
            labels = torch.arange(_JUDGED) % classes
            for part in labels.split(128):
                logits = torch.randn(len(part), classes, generator=generator)
                logits[torch.arange(len(part)), part] += 3
                batches.append([array.numpy() for array in metrics.reduce_logits(logits, part)])
            arrays: Any = tuple(np.concatenate(column) for column in zip(*batches, strict=True))
            figures = metrics(EvalPrediction(arrays, labels.numpy()))
            result = EvaluationResult(figures, arrays[0], labels.numpy(), arrays[2], names, confidences=arrays[3])
            result.save(Path(written) / "figures.json")
            context = ModelCardContext(
                "m", classes, "d", {"test": "test"}, {"test": figures}, "", "", 0, {},
                per_class=result.per_class(), per_class_split="test",
            )  # fmt: skip
            write_model_card(context, Path(written))
    return seconds


_SQUARES = (32**2, 96**2, 320**2, 1024**2)
PARTS: dict[str, tuple[str, Sequence[int], Callable[[Session, int], list[float]]]] = {
    "Open a folder of JPEG files, first time": ("files", (100, 1_000, 10_000, 100_000), opening_a_folder),
    "Open a Parquet table with images": ("rows", (1_000, 10_000, 100_000, 1_000_000), opening_a_table),
    "A JPEG file to a crop of 224 pixels": ("pixels of the file", (*_SQUARES, 3200**2), preparing_an_image),
    "An image in a step of ResNet-50": ("pixels", _SQUARES, a_training_step(resnet50)),
    "An image in a step of ViT-B/16": ("pixels", _SQUARES[:3], a_training_step(vit_base)),
    "Figures, plots and card of 10,000 images": ("classes", (10, 100, 1_000, 10_000), figures_and_files),
}


def _noise(side: int) -> PIL.Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (max(2, side // 8), max(2, side // 8), 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((side, side), PIL.Image.Resampling.BICUBIC)


def _speeds(network: Network) -> tuple[float, float, float]:
    """Return the GFLOPs of an image, forward, and the images a second of one core in training and in evaluation."""
    model = network(_SIDE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, _SIDE, _SIDE))
    limit = Limit(model, Schedule(_BATCH), _SIDE)
    trained = statistics.median(limit.seconds_per_step(1, warm_up=1) for _ in range(_TIMES))
    model.eval()
    passes: list[float] = []
    for _ in range(_TIMES):
        with _processor_seconds(passes), torch.no_grad():
            model(limit.images)
    return counter.get_total_flops() / 1e9, _BATCH / trained, _BATCH / statistics.median(passes)


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    print("| Network at 224 pixels | GFLOPs an image, forward | Trained, images/s | Evaluated, images/s |")
    print("| --- | --- | --- | --- |")
    for name, network in (("ResNet-50", resnet50), ("ViT-B/16", vit_base)):
        flops, trained, evaluated = _speeds(network)
        print(f"| {name} | {flops:.1f} | {trained:.2f} | {evaluated:.2f} |", flush=True)
    print("\n| Part | n | Seconds at each n | Fitted (largest error) |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="cost-", ignore_cleanup_errors=True) as folder:
        session = Session(Path(folder), cpu=True)
        with datasets_cache(session):
            for name, (unit, sizes, measure) in PARTS.items():
                seconds = [statistics.median(measure(session, size)) for size in sizes]
                shown = ", ".join(f"{size:,}: {value:.3g}" for size, value in zip(sizes, seconds, strict=True))
                print(f"| {name} | {unit} | {shown} | {Growth.fit(sizes, seconds)} |", flush=True)


if __name__ == "__main__":
    main()
