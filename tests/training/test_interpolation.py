"""The weights between start and end: what they are, which are chosen, and that a run is left with them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from hf_finetune import finetune
from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.training.extensions.list import Extensions
from hf_finetune.training.extensions.probed_start import ProbedStart
from hf_finetune.training.extensions.time_budget import Budget, TimeBudget
from hf_finetune.training.interpolation import SHARES, between, choose, keep_best_between
from tests.helpers.networks import make_model
from tests.helpers.tiny import TINY_RESNET, write_recipe
from tests.helpers.trainers import make_trainer

METRICS = ClassificationMetrics([str(number) for number in range(10)])


def test_weights_between_two_sets() -> None:
    start = {"weight": torch.tensor([0.0, 4.0], dtype=torch.bfloat16), "count": torch.tensor(3)}
    end = {"weight": torch.tensor([1.0, 0.0], dtype=torch.bfloat16), "count": torch.tensor(9)}
    middle = between(start, end, 0.25)
    assert middle["weight"].tolist() == [0.25, 3.0] and middle["weight"].dtype == torch.bfloat16
    assert middle["count"] == 9
    assert between(start, end, 0.0) is start and between(start, end, 1.0) is end


def output(right: list[int], losses: list[float], **metrics: float) -> Any:
    """Return the evaluation of images with the label 0; a label below 0 is that of an image that does not count."""
    classes = np.array([0 if own else 1 for own in right] + [5])
    labels = np.array([0] * len(right) + [-100])
    predictions = (classes, classes == 0, np.array([*losses, np.nan], np.float32), np.ones(len(labels)))
    return SimpleNamespace(predictions=predictions, label_ids=labels, metrics=metrics)


def chosen(metric: str, *outputs: Any) -> int:
    args = SimpleNamespace(chosen_by=metric, greater_is_better=None)
    return choose(outputs, SimpleNamespace(args=args, compute_metrics=METRICS))


MANY = 400


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_of_networks_that_cannot_be_told_apart_the_first_is_taken(metric: str) -> None:
    same = output([1, 0, 1, 1], [0.1, 2.0, 0.3, 0.2])
    assert chosen(metric, same, same, same) == 0
    # One of ten images more, and a loss that is lower for some and higher for others.
    few = output([1] * 8 + [0] * 2, [0.5] * 10), output([1] * 9 + [0], [0.1, 0.9] * 5)
    assert chosen(metric, *few) == 0


def test_of_few_images_the_loss_decides() -> None:
    start, end = output([1] * 8 + [0] * 2, [1.0, 1.2] * 5), output([1] * 7 + [0] * 3, [0.5, 0.6] * 5)
    assert chosen("accuracy", start, end) == chosen("loss", start, end) == 1
    assert chosen("accuracy", output([1] * 7 + [0] * 3, [0.5, 0.6] * 5), output([1] * 8 + [0] * 2, [1.0, 1.2] * 5)) == 0


def test_of_many_images_the_accuracy_decides_although_the_loss_rises() -> None:
    start = output([1, 1, 1, 0] * (MANY // 4), [0.5, 0.6, 0.5, 0.6] * (MANY // 4))
    end = output([1, 1, 1, 1] * (MANY // 4), [0.8, 0.9, 0.8, 0.9] * (MANY // 4))
    assert chosen("accuracy", start, end) == 1 and chosen("loss", start, end) == 0


def test_another_metric_decides_alone() -> None:
    outputs = [output([1, 0], [0.1, 0.2], eval_macro_f1=figure) for figure in (0.4, 0.6, 0.6)]
    assert chosen("macro_f1", *outputs) == 1


@pytest.mark.parametrize("best", SHARES)
def test_the_network_is_left_with_what_was_chosen(caplog, best: float) -> None:
    """The start is 0, the end is 8, and the loss of each image the distance to the best in between."""
    start = ProbedStart()
    start.weights = {"weight": torch.zeros(1, 1)}
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(8.0)

    def predict(*_: Any, metric_key_prefix: str) -> Any:
        loss = abs(model.weight.item() - 8 * best)
        return output([1, 0, 1, 0], [loss, loss + 1, loss, loss + 1], eval_accuracy=0.5, eval_loss=loss + 0.5)

    trainer = SimpleNamespace(
        extensions=Extensions([start]), model=model, predict=predict, compute_metrics=METRICS,
        args=SimpleNamespace(chosen_by="accuracy", greater_is_better=None),
    )  # fmt: skip
    caplog.set_level("INFO", "hf_finetune")
    assert keep_best_between(trainer, []) == best and model.weight.item() == 8 * best
    kept = {0.0: "The network with the probed head alone is", 1.0: "The network of the end is"}
    assert caplog.messages[0].endswith(f"{kept.get(best, f'The weights at {best:.0%} of the way are')} kept.")
    assert "to the end of the training, accuracy on validation: 0% 0.5000 (loss " in caplog.text


@pytest.mark.parametrize(("affordable", "evaluated"), [(None, 8), (3, 3), (20, 8)])
def test_a_time_budget_limits_the_images_that_are_compared(affordable: int | None, evaluated: int) -> None:
    start, clock = ProbedStart(), TimeBudget(Budget(60.0, began=0.0))
    start.weights, clock.compared = {"weight": torch.zeros(1, 1)}, affordable
    counts: list[int] = []

    def predict(images: Any, metric_key_prefix: str) -> Any:
        counts.append(len(images))
        return output([1] * len(images), [0.5] * len(images), eval_accuracy=1.0, eval_loss=0.5)

    trainer = SimpleNamespace(
        extensions=Extensions([start, clock]), model=torch.nn.Linear(1, 1, bias=False), predict=predict,
        args=SimpleNamespace(chosen_by="accuracy", greater_is_better=None, seed=1), compute_metrics=METRICS,
    )  # fmt: skip
    keep_best_between(trainer, list(range(8)))
    assert counts == [evaluated] * len(SHARES)


@pytest.mark.slow
def test_a_run_says_which_share_it_kept(image_folder: Path, tmp_path: Path) -> None:
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=7)).save_pretrained(tmp_path / "checkpoint")
    recipe = write_recipe(tmp_path, model_type=None, model_config=None, head_init="auto", freeze=["batch_norm"])
    result = finetune(recipe, dataset=image_folder, model=tmp_path / "checkpoint", output_dir=tmp_path / "run")
    assert result.metrics["train_share_from_start_to_end"] in SHARES
    written = json.loads((tmp_path / "run/metrics.json").read_text())["metrics"]
    assert written["train_share_from_start_to_end"] == result.metrics["train_share_from_start_to_end"]


def test_without_a_start_nothing_is_compared(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet"))
    assert keep_best_between(trainer, trainer.eval_dataset) is None
