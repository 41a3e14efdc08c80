"""The folder of a run that was never trained: what a report is made of, of random answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_finetune.config.run_files import HISTORY_FILE, METRICS_FILE, PREDICTIONS_FILE, RECIPE_FILE
from hf_finetune.evaluation.metrics import ClassificationMetrics, Predictions
from hf_finetune.evaluation.report import interval_keys, write_metrics
from hf_finetune.evaluation.summary import summary_of
from hf_finetune.reports.answers import Answers, write_answers
from hf_finetune.reports.history import write_history


def random_answers(names: list[str], images: int, seed: int = 0) -> Answers:
    """Return answers for images of each class in turn, three quarters of which are correct, with one slice."""
    draws = np.random.default_rng(seed)
    labels = np.arange(images, dtype=np.int64) % len(names)
    logits = draws.normal(0, 1, (images, len(names))).astype(np.float32)
    logits[np.arange(images), labels] += np.where(draws.random(images) < 0.75, 6, 0)
    shifted = logits - logits.max(axis=1, keepdims=True)
    whole = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    count = len(names) if len(names) <= 100 else 5
    classes = np.argsort(-whole, axis=1, kind="stable")[:, :count].astype(np.int32)
    return Answers(
        [f"class/{name}/{number}.jpg" for number, name in enumerate(names[label] for label in labels)],
        np.arange(images),
        labels,
        classes[:, 0].astype(np.int64),
        -np.log(whole[np.arange(images), labels]).astype(np.float32),
        classes,
        np.take_along_axis(whole, classes.astype(np.int64), axis=1),
        names,
        {"camera": [f"camera {number % 3}" for number in range(images)]},
    )


def write_run(folder: Path, answers: Answers, **more: object) -> Path:
    """Write the files of a run that a report reads; `more` stands in `metrics.json`."""
    folder.mkdir(exist_ok=True)
    names = list(answers.label_names)
    predictions = Predictions(
        answers.predictions, answers.labels, answers.correct, answers.losses, answers.confidences, len(names)
    )
    computed = ClassificationMetrics(names)
    figures = {f"test_{name}": metric.compute(predictions) for name, metric in computed.metrics.items()}
    intervals = {"test_accuracy": computed.metrics["accuracy"].interval(predictions)}  # type: ignore[misc]
    record = {
        "metrics": {**figures, **interval_keys(intervals), "test_samples": len(answers), "test_runtime": 1.0},
        "reported_split": "test",
        "splits": {"train": "train", "test": "test"},
        "per_class": summary_of(predictions, names).per_class(),
        "seconds": {"prepare": 1.0, "train": 75.0, "evaluate": 7200.0},
        "versions": {"python": "3"},
        **more,
    }
    write_metrics(folder / METRICS_FILE, record)
    write_answers(answers, folder / PREDICTIONS_FILE)
    steps = [{"loss": 1 / step, "learning_rate": 0.1, "epoch": step / 4, "step": step} for step in range(1, 9)]
    evaluations = [{"eval_loss": 0.5, "eval_accuracy": 0.7, "epoch": epoch, "step": 4} for epoch in (1, 2)]
    write_history([*steps, *evaluations], folder / HISTORY_FILE)
    (folder / RECIPE_FILE).write_text("dataset: some_images\nnum_train_epochs: 2\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    return folder


def noise(places: object, side: int = 200) -> list[Image.Image | None]:
    """Return an image of noise, which no JPEG makes small, for each place; none for the first."""
    draws = np.random.default_rng(0)
    count = len(list(places))  # type: ignore[call-overload]
    pixels: list[NDArray[np.uint8]] = [draws.integers(0, 255, (side, side, 3), dtype=np.uint8) for _ in range(count)]
    return [None, *map(Image.fromarray, pixels[1:])]
