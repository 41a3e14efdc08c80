"""Prediction: from files in a folder to finished tables, against a bare loop over a DataLoader and the model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import BaseImageProcessor, PreTrainedModel, ResNetConfig, ResNetForImageClassification

from benchmarks.harness import Answer, Row, Session, alternate, compare_seconds, per_second, quiet, stopwatch
from benchmarks.images import CIFAR10_MEAN, CIFAR10_STD, hub_copy, photograph_folder
from benchmarks.ours import TINY_RESNET
from benchmarks.train_resnet50 import RESNET50
from benchmarks.train_small import SMALL_RESNET
from hf_finetune.jobs.predict_folder import predict_to_folder
from hf_finetune.jobs.prediction_settings import PredictionSettings
from hf_finetune.models.processor import IMAGENET_MEAN, IMAGENET_STD

_WORKERS = 1  # one core is left to the model


class _Files(Dataset[torch.Tensor]):
    """Files as one writes it by hand: Pillow, and the image processor on one image."""

    def __init__(self, files: Sequence[Path], image_processor: BaseImageProcessor) -> None:
        self.files = files
        self.image_processor = image_processor

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        with PIL.Image.open(self.files[row]) as image:
            pixels: torch.Tensor = self.image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return pixels


def _compare(
    session: Session, question: str, folder: Path, model: PreTrainedModel, processor: BaseImageProcessor, batch: int
) -> Row:
    files = sorted(path for path in folder.rglob("*.*") if path.is_file())
    outputs = (session.folder / f"predicted-{folder.name}-{number}" for number in itertools.count())

    def ours() -> float:
        settings = PredictionSettings(batch_size=batch, num_workers=_WORKERS)
        with quiet():
            return stopwatch(
                lambda: predict_to_folder(model, [folder], next(outputs), settings, image_processor=processor)
            )

    def bare() -> float:
        loader = DataLoader(_Files(files, processor), batch, num_workers=_WORKERS)
        answers = []

        def loop() -> None:
            with torch.inference_mode():
                for pixels in loader:
                    answers.append(model(pixel_values=pixels.to(model.device)).logits.softmax(-1).max(-1))

        return stopwatch(loop)

    samples = alternate({"ours": ours, "stock": bare}, session.pairs)
    return compare_seconds(question, samples, per_second(len(files)), 0.95)


def make_model(config: Mapping[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return ResNetForImageClassification(ResNetConfig(id2label=dict(enumerate("abcdefghij")), **config)).eval()


def make_processor(side: int, shortest_edge: int, mean: Sequence[float], std: Sequence[float]) -> BaseImageProcessor:
    from transformers import BitImageProcessor

    crop = {"height": side, "width": side}
    return BitImageProcessor(size={"shortest_edge": shortest_edge}, crop_size=crop, image_mean=mean, image_std=std)


def _files_of(session: Session, count: int) -> Path:
    """Return a folder of CIFAR-10's test images, each a file."""
    folder = session.folder / f"files-{count}"
    rows = datasets.load_dataset(str(hub_copy(session, "cifar10")), split=f"test[:{count}]")
    folder.mkdir()
    for number, value in enumerate(rows.cast_column("img", datasets.Image(decode=False))["img"]):
        (folder / f"{number:05d}.png").write_bytes(value["bytes"])  # by its content it may be a JPEG
    return folder


def measure(session: Session) -> Answer:
    side = session.size(224, 64)
    small = _compare(
        session,
        "predict with the small ResNet, CIFAR-10 as files at 32 px",
        _files_of(session, session.size(4000, 32)),
        make_model(TINY_RESNET if session.quick else SMALL_RESNET),
        make_processor(32, 32, CIFAR10_MEAN, CIFAR10_STD),
        batch=session.size(128, 8),
    )
    large = _compare(
        session,
        f"predict with ResNet-50 at {side} px, ImageNet-sized JPEGs",
        photograph_folder(session, "imagenet", session.size(192, 8)),
        make_model(TINY_RESNET if session.quick else RESNET50),
        make_processor(side, int(side / 0.875), IMAGENET_MEAN, IMAGENET_STD),
        batch=session.size(32, 4),
    )
    note = "Stock is a bare loop: Pillow and the image processor in one worker, a batch at a time through the model."
    return Answer([small, large], [note])
