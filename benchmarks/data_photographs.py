"""The data path alone on photographs: JPEG files to random crops of 224 pixels on the device."""

from __future__ import annotations

from typing import Any

from benchmarks.data_cifar import one_pass
from benchmarks.harness import Answer, Row, Session, alternate, compare_seconds, per_second
from benchmarks.images import photograph_folder
from benchmarks.ours import TINY_RESNET, prepare_ours
from benchmarks.stock import Schedule, load_stock_dataset, set_stock_transform, stock_trainer, twin
from hf_finetune.models.processor import IMAGENET_MEAN, IMAGENET_STD


def _compare(session: Session, kind: str, question: str, count: int, required: float) -> Row:
    path = photograph_folder(session, kind, count)
    items: list[Any] = [{"RandomResizedCrop": {"size": 224}}, "RandomHorizontalFlip"]
    schedule = Schedule(session.size(16, 2), max_steps=1)
    prepared = prepare_ours(
        session,
        schedule,
        dataset=str(path),
        model_type="resnet",
        model_config=TINY_RESNET,
        image_size=224,
        train_transforms=items,
    )
    dataset = set_stock_transform(load_stock_dataset(path)["train"], items, IMAGENET_MEAN, IMAGENET_STD)
    theirs = stock_trainer(session, twin(prepared.trainer.model), schedule, dataset)
    one_pass(prepared.trainer)
    samples = alternate({"ours": lambda: one_pass(prepared.trainer), "stock": lambda: one_pass(theirs)}, session.pairs)
    return compare_seconds(question, samples, per_second(count), required)


def measure(session: Session) -> Answer:
    camera = _compare(
        session, "camera", "data path, 4000x3000 JPEGs -> 224 random-resized crop", session.size(32, 4), required=5
    )
    imagenet = _compare(
        session, "imagenet", "data path, ImageNet-sized JPEGs -> 224 random-resized crop", session.size(400, 8), 1.2
    )
    return Answer([camera, imagenet])
