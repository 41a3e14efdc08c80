"""The data path alone on CIFAR-10, from the dataset's rows to normalized batches on the device."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

from benchmarks.harness import Answer, Session, alternate, compare_seconds, datasets_cache, per_second, stopwatch
from benchmarks.images import CIFAR10_MEAN, CIFAR10_STD, hub_copy
from benchmarks.ours import TINY_RESNET, prepare_ours, source_rows, unknown_keys
from benchmarks.steps import CROP_AND_FLIP
from benchmarks.stock import Schedule, load_stock_dataset, set_stock_transform, stock_trainer, twin
from hf_finetune.training.run import PreparedRun


def one_pass(trainer: Trainer) -> float:
    """Return the seconds in which all training images become the network's input."""

    def work() -> None:
        for batch in trainer.get_train_dataloader():
            trainer._prepare_inputs(batch)

    return stopwatch(work)


class _DataPath:
    """Both sides of one benchmark: all transforms of the tutorial, at one size."""

    def __init__(self, session: Session, image_size: int, images: int | None) -> None:
        self.session, self.image_size, self.images = session, image_size, images
        self.items: list[Any] = list(CROP_AND_FLIP)
        if image_size != 32:
            self.items.append({"Resize": {"size": image_size}})
        self.schedule = Schedule(session.size(128, 32), max_steps=1)
        self.path = hub_copy(session, "cifar10")

    def prepare(self, **settings: Any) -> PreparedRun:
        return prepare_ours(
            self.session,
            self.schedule,
            dataset="cifar10",
            dataset_path=str(self.path),
            model_type="resnet",
            model_config=TINY_RESNET,
            image_size=self.image_size,
            image_mean=CIFAR10_MEAN,
            image_std=CIFAR10_STD,
            train_transforms=self.items,
            max_train_samples=self.images,
            **settings,
        )

    def stock(self, prepared: PreparedRun) -> Trainer:
        dataset = load_stock_dataset(self.path)["train"]
        if self.images is not None:
            dataset = dataset.select(source_rows(prepared, "train"))
        set_stock_transform(dataset, self.items, CIFAR10_MEAN, CIFAR10_STD)
        return stock_trainer(self.session, twin(prepared.trainer.model), self.schedule, dataset)


def measure(session: Session) -> Answer:
    answer = Answer()
    side = _DataPath(session, 32, None)
    cached = not unknown_keys("decode_cache")
    settings = {"decode_cache": "always"} if cached else {}
    theirs = side.stock(side.prepare())
    later_passes: list[float] = []

    def first_pass() -> float:
        """Return the seconds of filling the cache and of the first pass; then make a second pass, for the other row."""
        with datasets_cache(session):
            load_stock_dataset(side.path)
            without = stopwatch(lambda: side.prepare(**({"decode_cache": "never"} if cached else {})))
            prepared: list[PreparedRun] = []
            with_cache = stopwatch(lambda: prepared.append(side.prepare(**settings)))
            seconds = max(0.0, with_cache - without) + one_pass(prepared[0].trainer)
            later_passes.append(one_pass(prepared[0].trainer))
            return seconds

    first = alternate({"ours": first_pass, "stock": lambda: one_pass(theirs)}, session.pairs)
    count = theirs.num_examples(theirs.get_train_dataloader())
    answer.rows.append(compare_seconds("data path, CIFAR-10 at 32 px: first pass", first, per_second(count), 3))
    later = {"ours": later_passes, "stock": first["stock"]}
    answer.rows.append(compare_seconds("data path, CIFAR-10 at 32 px: from the cache", later, per_second(count), 20))
    if cached:
        answer.notes.append("The first pass includes decoding all images into the cache.")
    else:
        answer.notes.append("This version has no decode_cache: later passes are like the first.")

    side = _DataPath(session, session.size(224, 64), session.size(5120, 64))
    prepared = side.prepare()
    theirs = side.stock(prepared)
    one_pass(prepared.trainer)
    samples = alternate({"ours": lambda: one_pass(prepared.trainer), "stock": lambda: one_pass(theirs)}, session.pairs)
    question = f"data path, CIFAR-10 32->{side.image_size}"
    answer.rows.append(
        compare_seconds(question, samples, per_second(theirs.num_examples(theirs.get_train_dataloader())), 3)
    )
    return answer
