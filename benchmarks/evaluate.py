"""Evaluation: from the test images to the accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import Answer, Row, Session, alternate, compare_seconds, per_second, quiet, stopwatch
from benchmarks.images import CIFAR10_MEAN, CIFAR10_STD, hub_copy, photograph_folder
from benchmarks.ours import TINY_RESNET, prepare_ours
from benchmarks.stock import Schedule, load_stock_dataset, set_stock_transform, stock_trainer, twin
from benchmarks.train_resnet50 import RESNET50
from benchmarks.train_small import SMALL_RESNET
from hf_finetune.models.processor import IMAGENET_MEAN, IMAGENET_STD


def _compare(
    session: Session,
    question: str,
    path: Path,
    split: str,
    items: list[Any],
    batch: int,
    required: float,
    **settings: Any,
) -> Row:
    """Compare evaluation on a split; `items` are stock's transforms, `settings` the recipe of ours."""
    schedule = Schedule(batch, max_steps=1)
    prepared = prepare_ours(session, schedule, validation_split=split, model_type="resnet", **settings)
    mean, std = settings.get("image_mean", IMAGENET_MEAN), settings.get("image_std", IMAGENET_STD)
    dataset = set_stock_transform(load_stock_dataset(path)[split], items, mean, std)
    theirs = stock_trainer(session, twin(prepared.trainer.model), schedule, None, dataset)

    def ours() -> float:
        with quiet():
            return stopwatch(prepared.trainer.evaluate)

    def stock() -> float:
        with quiet():
            return stopwatch(theirs.evaluate)

    ours()  # caches are filled by the first evaluation, and a run evaluates after every epoch
    samples = alternate({"ours": ours, "stock": stock}, session.pairs)
    return compare_seconds(question, samples, per_second(len(dataset)), required)


def measure(session: Session) -> Answer:
    path = hub_copy(session, "cifar10")
    small = _compare(
        session,
        "evaluate the small ResNet at 32 px",
        path,
        "test",
        [],
        batch=128,
        required=3,
        dataset="cifar10",
        dataset_path=str(path),
        model_config=SMALL_RESNET,
        image_size=32,
        image_mean=CIFAR10_MEAN,
        image_std=CIFAR10_STD,
    )
    image_size = session.size(224, 64)
    photographs = photograph_folder(session, "imagenet", session.size(96, 8))
    large = _compare(
        session,
        f"evaluate ResNet-50 at {image_size} px, ImageNet-sized JPEGs",
        photographs,
        "train",
        [{"Resize": {"size": int(image_size / 0.875)}}, {"CenterCrop": {"size": image_size}}],
        batch=session.size(32, 4),
        required=1.15,
        dataset=str(photographs),
        model_config=TINY_RESNET if session.quick else RESNET50,
        image_size=image_size,
        crop_pct=0.875,
    )
    return Answer([small, large], ["Both sides evaluate from the second time on; each epoch of a run ends with one."])
