"""Ten epochs of the head on a frozen backbone: ours reads cached features, stock runs the backbone in every epoch."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.harness import Answer, Ratio, Row, Session, alternate, compare_seconds, quiet, seconds
from benchmarks.images import CIFAR10_MEAN, CIFAR10_STD, hub_copy
from benchmarks.ours import TINY_RESNET, prepare_ours, unknown_keys
from benchmarks.stock import Schedule, twin
from benchmarks.train_resnet18 import RESNET18
from benchmarks.whole_runs import WholeRun, prepare_whole_runs

_IMAGE_SIZE = 64


def _train_backbone(session: Session, path: Path) -> Path:
    """Return a checkpoint of ResNet-18 that was trained briefly on the images, so that its features are useful."""
    batch = session.size(128, 32)
    prepared = prepare_ours(
        session,
        Schedule(batch, learning_rate=0.05, num_train_epochs=session.size(2, 1)),
        dataset="cifar10",
        dataset_path=str(path),
        max_train_samples=session.size(5000, 64),
        model_type="resnet",
        model_config=TINY_RESNET if session.quick else RESNET18,
        image_size=_IMAGE_SIZE,
        image_mean=CIFAR10_MEAN,
        image_std=CIFAR10_STD,
        train_transforms=["RandomHorizontalFlip", {"Resize": {"size": _IMAGE_SIZE}}],
    )
    folder = session.folder / "backbone"
    with quiet():
        prepared.trainer.train()
        model = twin(prepared.trainer.model).cpu()
        # Class names that differ from the dataset's, so that loading it creates a new head.
        names = {position: f"other {position}" for position in range(model.config.num_labels or 0)}
        model.config.id2label = names
        model.config.label2id = {name: position for position, name in names.items()}
        model.save_pretrained(folder)
        processor = prepared.trainer.processing_class
        assert processor is not None
        processor.save_pretrained(folder)
    return folder


def measure(session: Session) -> Answer:
    if unknown_keys("freeze"):
        return Answer(notes=["Skipped: this version has no freeze."])
    path = hub_copy(session, "cifar10")
    train, test = session.size(2500, 64), session.size(2000, 32)
    schedule = Schedule(
        session.size(128, 32), learning_rate=0.1, lr_scheduler_type="cosine", num_train_epochs=session.size(10, 2)
    )
    question = prepare_whole_runs(
        session,
        path,
        schedule,
        dataset="cifar10",
        model_name_or_path=str(_train_backbone(session, path)),
        max_train_samples=train,
        max_eval_samples=1,  # ours would extract features of its test images, too, where stock only trains
        train_transforms=[{"Resize": {"size": _IMAGE_SIZE}}],
    )
    accuracies: dict[str, list[float]] = {"ours": [], "stock": []}

    def seconds_of(side: str, run: WholeRun) -> float:
        accuracies[side].append(question.accuracy(run.model, test, schedule.batch))
        return run.seconds

    samples = alternate(
        {
            "ours": lambda: seconds_of("ours", question.ours(schedule, freeze="backbone")),
            "stock": lambda: seconds_of("stock", question.stock(schedule, frozen=True)),
        },
        session.pairs,
    )
    differences = [100 * (ours - stock) for ours, stock in zip(accuracies["ours"], accuracies["stock"], strict=True)]
    shown = {side: f"{statistics.median(values):.2%}" for side, values in accuracies.items()}
    return Answer(
        [
            compare_seconds(
                "10 epochs of the head, frozen ResNet-18 at 64 px, extraction included", samples, seconds, 8
            ),
            Row(
                "the accuracy of those heads",
                shown["ours"],
                shown["stock"],
                Ratio(differences, -0.3, unit=" points"),
            ),
        ],
        [
            f"{train:,} training and {test:,} test images of CIFAR-10; the backbone was trained for two epochs"
            " beforehand. Stock's BatchNorm is held by hand; requires_grad_(False) alone lets its statistics drift."
        ],
    )
