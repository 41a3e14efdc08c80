"""Losses and what evens out classes, in pairs with each other and with the options of a run: each runs or is refused.

A pair that is refused is one line before the first step; the table says how it begins.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, TrainerCallback

from hf_finetune import finetune
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.interrupting import StopAfterAStep
from tests.helpers.streamed import write_parquet
from tests.helpers.tiny import TINY_RESNET, write_recipe

OPTIONS: dict[str, dict[str, Any]] = {
    "bce": {"loss": "bce"},
    "focal": {"loss": "focal", "loss_args": {"gamma": 1.0}},
    "asymmetric": {"loss": "asymmetric"},
    "balanced weights": {"class_weights": "balanced"},
    "stated weights": {"class_weights": {"red": 3}},
    "balanced sampling": {"sampling": "balanced"},
    "weighted sampling": {"sampling": "weighted", "class_weights": {"red": 3}},
    "adjusted logits": {"logit_adjustment": 1.0},
}
MIXED = [{"RandomCrop": {"size": 16, "padding": 2}}, {"RandomChoice": {"transforms": [{"MixUp": {"alpha": 0.8}}]}}]
FROZEN = {"freeze": ["backbone"], "train_transforms": None}
OTHERS: dict[str, dict[str, Any]] = {
    "mixing": {"train_transforms": MIXED},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "frozen backbone and kept features": FROZEN,
    "frozen backbone and a probed head": {**FROZEN, "head_init": "probe"},
    "a probed head": {"head_init": "probe"},
    "EMA": {"ema_decay": 0.9},
    "accumulation": {"gradient_accumulation_steps": 2},
    "bf16": {"bf16": True},
    "freeze_epochs": {"freeze_epochs": 1, "num_train_epochs": 2, "max_steps": -1},
    "an uneven last batch left out": {"dataloader_drop_last": True},
    "workers": {"dataloader_num_workers": 1},
}
ADJUSTED_LOSS = "logit_adjustment is for the loss cross_entropy, and loss is "
BOTH = " both even out the classes; leave one out."
# Of options of this page: the line, where they do not go together. Weighted sampling has its own class_weights.
REFUSED = {
    ("bce", "adjusted logits"): f"{ADJUSTED_LOSS}bce",
    ("focal", "adjusted logits"): f"{ADJUSTED_LOSS}focal",
    ("asymmetric", "adjusted logits"): f"{ADJUSTED_LOSS}asymmetric",
    ("balanced weights", "balanced sampling"): f"sampling balanced and class_weights balanced{BOTH}",
    ("balanced weights", "adjusted logits"): f"logit_adjustment and class_weights balanced{BOTH}",
    ("balanced sampling", "adjusted logits"): f"logit_adjustment and sampling balanced{BOTH}",
    ("weighted sampling", "adjusted logits"): f"logit_adjustment and sampling weighted{BOTH}",
}
# Two values of one key are no pair.
SAME_KEY = [{"bce", "focal", "asymmetric"}, {"balanced weights", "stated weights", "weighted sampling"}]
SAME_KEY.append({"balanced sampling", "weighted sampling"})
STREAMED = {
    "balanced weights": "class_weights balanced needs the labels of train, which are streamed; state the weights",
    "balanced sampling": "sampling balanced needs the labels of train, which are streamed; use class_weights",
    "weighted sampling": "sampling weighted needs the labels of train, which are streamed; use class_weights",
    "adjusted logits": "logit_adjustment 1 needs the labels of train, which are streamed; leave it out.",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=7)).save_pretrained(folder)
    return folder


def run(folder: Path, dataset: Path, checkpoint: Path, *callbacks: TrainerCallback, **settings: Any) -> dict[str, Any]:
    """Train two steps, without an evaluation, and return the figures."""
    short = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    network = {"model_type": None, "model_config": None, "model_name_or_path": str(checkpoint)}
    recipe = write_recipe(folder, **{**short, **network, **settings})
    return finetune(recipe, dataset=str(dataset), output_dir=folder / "run", callbacks=callbacks).metrics


def refuse_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageClassificationTrainer, "train", lambda *args, **kwargs: pytest.fail("training began"))


@pytest.mark.slow
@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("option", OPTIONS)
def test_each_goes_with_the_options_of_a_run(tmp_path, image_folder, checkpoint, option, other):
    metrics = run(tmp_path, image_folder, checkpoint, **{**OTHERS[other], **OPTIONS[option]})
    assert math.isfinite(metrics["train_loss"])


@pytest.mark.slow
def test_a_time_budget_takes_them(tmp_path, image_folder, checkpoint):
    settings = {**OPTIONS["balanced sampling"], "class_weights": {"red": 2}, "loss": "focal"}
    metrics = run(tmp_path, image_folder, checkpoint, time_budget="12s", max_steps=-1, **settings)
    assert 0 <= metrics["test_accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(OPTIONS, 2)))
def test_in_pairs_they_run_or_are_refused(tmp_path, image_folder, checkpoint, monkeypatch, first, second):
    if any({first, second} <= same for same in SAME_KEY):
        pytest.skip("two values of one key")
    settings = {**OPTIONS[first], **OPTIONS[second]}
    if (first, second) not in REFUSED:
        assert math.isfinite(run(tmp_path, image_folder, checkpoint, **settings)["train_loss"])
        return
    refuse_training(monkeypatch)
    with pytest.raises(UserError) as refused:
        run(tmp_path, image_folder, checkpoint, **settings)
    assert str(refused.value).startswith(REFUSED[first, second]) and "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_a_stream_takes_what_needs_no_counts(tmp_path, checkpoint, monkeypatch, option):
    data = tmp_path / "data"
    data.mkdir()
    write_parquet(data, "train", 40, files=2)
    write_parquet(data, "test", 8)
    settings = {**OPTIONS[option], "streaming": True, "validation_fraction": 0.0}
    if option not in STREAMED:
        assert math.isfinite(run(tmp_path, data, checkpoint, **settings)["train_loss"])
        return
    refuse_training(monkeypatch)
    with pytest.raises(UserError) as refused:
        run(tmp_path, data, checkpoint, **settings)
    assert str(refused.value).startswith(STREAMED[option]) and "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_a_run_that_resumes_ends_as_one_that_was_not_interrupted(tmp_path, image_folder, checkpoint, option):
    settings = {**OPTIONS[option], "max_steps": 5}
    weights = {}
    for name in ("whole", "resumed"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "resumed":
            with pytest.raises(Interrupted):
                run(folder, image_folder, checkpoint, StopAfterAStep(), **settings)
        run(folder, image_folder, checkpoint, **settings)
        weights[name] = load_file(folder / "run" / "model.safetensors")
    for name, tensor in weights["whole"].items():
        assert torch.equal(tensor, weights["resumed"][name]), name
