"""Whole runs of both sides, from opening the dataset to the end of training.

Both find the dataset converted to Arrow, which the same library does on both sides; nothing else is cached.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel, Trainer

from benchmarks.harness import Session, datasets_cache, quiet, synchronize
from benchmarks.ours import prepare_ours, source_rows
from benchmarks.stock import Schedule, load_stock_dataset, set_stock_transform, stock_trainer, twin
from hf_finetune.models.processor import describe


@dataclass(frozen=True)
class WholeRun:
    """`seconds` to the end of training, including the evaluations of its schedule; `accuracy` of the last evaluation.

    Without evaluations, it is None.
    """

    seconds: float
    model: PreTrainedModel = field(repr=False)
    accuracy: float | None


@dataclass(frozen=True)
class WholeRuns:
    """One benchmark: a checkpoint, images, and the weights that both sides start from.

    `settings` are keys of the recipe that both sides share; `rows` are the source's rows by role, `start` the
    checkpoint with the head that ours would begin with, `mean` and `std` are in pixel units.
    """

    session: Session
    path: Path
    settings: dict[str, Any]
    start: Path
    rows: dict[str, Sequence[int]]
    mean: Sequence[float]
    std: Sequence[float]

    def ours(self, schedule: Schedule, **settings: Any) -> WholeRun:
        """Run ours with additional settings, such as `freeze`."""
        with datasets_cache(self.session), quiet():
            load_stock_dataset(self.path)
            begin = time.perf_counter()
            trainer = prepare_ours(self.session, schedule, **{**self.settings, **settings}).trainer
            return _train(trainer, begin)

    def stock(self, schedule: Schedule, frozen: bool = False) -> WholeRun:
        """Run stock; `frozen` trains the head alone."""
        with datasets_cache(self.session), quiet():
            load_stock_dataset(self.path)
            begin = time.perf_counter()
            splits = load_stock_dataset(self.path)
            train = self._transformed(splits["train"].select(self.rows["train"]))
            test = self._transformed(splits["test"].select(self.rows["test"]))
            model = AutoModelForImageClassification.from_pretrained(self.start)
            if frozen:
                _freeze(model)
            return _train(stock_trainer(self.session, model, schedule, train, test), begin)

    def accuracy(self, model: PreTrainedModel, images: int, batch: int) -> float:
        """Return the accuracy of a side's result on the first test images, by stock's evaluation for both sides."""
        test = self._transformed(load_stock_dataset(self.path)["test"].select(range(images)))
        with quiet():
            return stock_trainer(self.session, twin(model), Schedule(batch), None, test).evaluate()["eval_accuracy"]

    def _transformed(self, dataset: Dataset) -> Dataset:
        return set_stock_transform(dataset, self.settings["train_transforms"], self.mean, self.std)


def _freeze(model: PreTrainedModel) -> None:
    """Freeze the backbone: no gradients, and BatchNorm uses its stored statistics in training too."""
    backbone = model.base_model
    backbone.requires_grad_(False)
    backbone.train = lambda mode=True: nn.Module.train(backbone, False)  # type: ignore[method-assign]


def _train(trainer: Trainer, begin: float) -> WholeRun:
    trainer.train()
    synchronize()
    seconds = time.perf_counter() - begin
    accuracies = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert isinstance(trainer.model, PreTrainedModel)
    return WholeRun(seconds, trainer.model, accuracies[-1] if accuracies else None)


def prepare_whole_runs(session: Session, path: Path, schedule: Schedule, **settings: Any) -> WholeRuns:
    """Prepare ours once, to find the rows and the weights that stock has to use."""
    settings = {"dataset_path": str(path), **settings}
    prepared = prepare_ours(session, schedule, **settings)
    start = session.folder / f"start-{settings['dataset']}-{schedule.seed}"
    with quiet():
        twin(prepared.trainer.model).cpu().save_pretrained(start)
    rows: dict[str, Sequence[int]] = {role: source_rows(prepared, role) for role in ("train", "test")}
    processor = prepared.trainer.processing_class
    assert isinstance(processor, BaseImageProcessor)
    preprocessing = describe(processor)
    return WholeRuns(session, path, settings, start, rows, preprocessing.mean, preprocessing.std)
