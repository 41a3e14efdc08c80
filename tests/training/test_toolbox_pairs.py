"""Losses, heads, adapters, teachers and the rest of the toolbox in pairs: two go together, or are refused in one line.

What goes together is trained in a few runs, each of which has many options, so that every pair is in one of them.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoModelForImageClassification, ConvNextConfig, ConvNextForImageClassification

from hf_finetune import finetune
from hf_finetune.errors import UserError
from hf_finetune.training.given import Given
from hf_finetune.training.plan import plan_run
from hf_finetune.training.run import choose_recipe, prepare
from tests.helpers.tiny import write_recipe

OPTIONS: dict[str, dict[str, Any]] = {
    "several labels": {"dataset": "several.jsonl"},
    "focal": {"loss": "focal"},
    "class weights": {"class_weights": {"a": 2}},
    "balanced sampling": {"sampling": "balanced"},
    "repeated augmentation": {"repeated_augmentation": 3},
    "weight column": {"sampling": "weighted", "weight_column": "w"},
    "logit adjustment": {"logit_adjustment": 1.0},
    "LoRA": {"peft": {"r": 2}},
    "frozen backbone": {"freeze": ["backbone"]},
    "probe": {"head_init": "probe"},
    "class means": {"head_init": "class_means"},
    "MLP": {"head": "mlp"},
    "ArcFace": {"head": "cosine", "loss": "arcface"},
    "drop path": {"drop_path": 0.2},
    "head dropout": {"head_dropout": 0.2},
    "layer decay": {"layer_decay": 0.8},
    "EMA": {"ema_decay": 0.9},
    "mixing": {"train_transforms": ["MixUp"]},
    "teacher": {"teacher": "teacher"},
    "fold": {"fold": "1/3"},
    "calibration": {"calibrate": True},
    "soup": {"best_k_soup": 2},
    "freeze_epochs": {"freeze_epochs": 1},
    "image sizes": {"image_size_schedule": {0: 12, 0.5: 16}},
    "lookahead": {"lookahead_steps": 2},
    "albumentations": {"train_transforms": [{"A.CLAHE": {"p": 0.5}}]},
    "neighbours": {"head": "knn", "num_train_epochs": 0},
}
ONE_CLASS = "the images have several labels, so leave it out."
ONE_LAYER = "needs a head with one linear layer that gives the logits, which CustomHeadForImageClassification has not"
ALIKE = "with head knn and no epoch all training images count alike"
REFUSED = {
    ("several labels", "balanced sampling"): ONE_CLASS,
    ("several labels", "logit adjustment"): ONE_CLASS,
    ("several labels", "class means"): "head_init class_means is for one class per image; use ",
    ("several labels", "ArcFace"): "loss is arcface, which has one class for each image",
    ("several labels", "teacher"): "teacher is for one class an image",
    ("several labels", "calibration"): ONE_CLASS,
    ("focal", "logit adjustment"): "logit_adjustment is for the loss cross_entropy, and loss is focal; leave one out.",
    (
        "balanced sampling",
        "repeated augmentation",
    ): "repeated_augmentation and sampling balanced both choose",
    (
        "repeated augmentation",
        "frozen backbone",
    ): "repeated_augmentation 3 shows copies of an image that",
    ("balanced sampling", "logit adjustment"): "both even out the classes; leave one out.",
    ("logit adjustment", "ArcFace"): "logit_adjustment is for the loss cross_entropy, and loss is arcface",
    ("repeated augmentation", "weight column"): "repeated_augmentation and sampling weighted both choose",
    ("class weights", "weight column"): "in proportion to weight_column or to class_weights, and both are set",
    ("weight column", "logit adjustment"): "both even out the classes; leave one out.",
    ("LoRA", "frozen backbone"): "peft freezes everything but its adapters and the head",
    ("frozen backbone", "drop path"): "drop_path leaves out blocks of the backbone, which is frozen",
    ("frozen backbone", "freeze_epochs"): "freeze_epochs trains the head",
    ("frozen backbone", "image sizes"): "image_size_schedule trains the backbone",
    ("probe", "MLP"): ONE_LAYER,
    ("probe", "ArcFace"): ONE_LAYER,
    ("class means", "MLP"): ONE_LAYER,
    ("class means", "ArcFace"): ONE_LAYER,
    ("ArcFace", "head dropout"): ONE_LAYER,
    ("ArcFace", "calibration"): "calibrate needs a head whose logits are the output of one linear layer",
    ("EMA", "soup"): "ema_decay and best_k_soup both average the weights; leave one out.",
    ("EMA", "lookahead"): "ema_decay and lookahead_steps both average the weights; leave one out.",
    ("several labels", "neighbours"): "head knn is for one class per image; use --head_init probe.",
    ("class weights", "neighbours"): f"class_weights would have no effect: {ALIKE}",
    ("balanced sampling", "neighbours"): f"sampling would have no effect: {ALIKE}",
    ("weight column", "neighbours"): f"sampling would have no effect: {ALIKE}",
    ("logit adjustment", "neighbours"): f"logit_adjustment would have no effect: {ALIKE}",
    ("LoRA", "neighbours"): "peft says what is trained, and with head knn nothing is; use --peft null.",
    ("probe", "neighbours"): ONE_LAYER,
    ("class means", "neighbours"): ONE_LAYER,
    ("head dropout", "neighbours"): ONE_LAYER,
    ("calibration", "neighbours"): "calibrate needs a head whose logits are the output of one linear layer",
    ("freeze_epochs", "neighbours"): "freeze_epochs is 1, which leaves none of 0 epochs to train everything",
}


# Of three options any two go together: labels of several classes are weighed by the loss bce.
THREE = {"several labels", "class weights", "focal"}
UNTRAINED = "neighbours"  # a run with it trains nothing, so it is no test of the other pairs in it


def is_pair(first: str, second: str) -> bool:
    """Whether two options set no key to two values."""
    return all(OPTIONS[second].get(key, value) == value for key, value in OPTIONS[first].items())


def runs() -> list[list[str]]:
    """Sets of options that go together, such that every pair that does is in one of them."""
    together = {pair for pair in itertools.combinations(OPTIONS, 2) if is_pair(*pair) and pair not in REFUSED}
    missing, found = set(together), []
    while missing:
        chosen = list(min(missing))
        for name in sorted(OPTIONS, key=lambda one: -sum(one in pair for pair in missing)):
            if name in (*chosen, UNTRAINED) or {*chosen, name} >= THREE:
                continue
            if all((other, name) in together or (name, other) in together for other in chosen):
                chosen.append(name)
        tested = {pair for pair in missing if set(pair) <= set(chosen)}
        missing -= {pair for pair in tested if UNTRAINED in pair} if UNTRAINED in chosen else tested
        found.append([name for name in OPTIONS if name in chosen])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three colours with one label and with several, a checkpoint, and a trained teacher."""
    folder = tmp_path_factory.mktemp("toolbox")
    generator = np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {"one": [], "several": []}
    for number in range(48):
        pixels = 60 + generator.normal(0, 20, (16, 16, 3))
        pixels[:, :, number % 3] += 120
        PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "w": number % 5, "split": "test" if number % 4 == 0 else "train"}
        labels = sorted({"abc"[number % 3], "abc"[number // 3 % 3]})
        rows["one"].append({**row, "label": "abc"[number % 3]})
        rows["several"].append({**row, "label": labels})
    for name, table in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, table)))
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2}
    ConvNextForImageClassification(ConvNextConfig(**shape, num_labels=7)).save_pretrained(folder / "base")
    write_recipe(
        folder, model_type=None, model_config=None, model_name_or_path=str(folder / "base"), num_train_epochs=2,
        dataset=str(folder / "one.jsonl"), train_transforms=None,
    )  # fmt: skip
    finetune(str(folder / "tiny.yaml"), output_dir=str(folder / "teacher"), max_steps=1)
    return folder


def settings_of(names: list[str] | tuple[str, str], folder: Path) -> dict[str, Any]:
    settings = {key: value for name in names for key, value in OPTIONS[name].items()}
    files = {key: str(folder / settings[key]) for key in ("dataset", "teacher") if key in settings}
    return {**settings, **files}


@pytest.mark.slow
@pytest.mark.parametrize("names", runs(), ids="; ".join)
def test_what_goes_together_trains(names: list[str], folder: Path, tmp_path: Path, datasets_cache: Path) -> None:
    if "albumentations" in names:
        pytest.importorskip("albumentations")
    result = finetune(str(folder / "tiny.yaml"), output_dir=str(tmp_path / "run"), **settings_of(names, folder))
    assert np.isfinite(result.metrics["test_loss"])
    AutoModelForImageClassification.from_pretrained(tmp_path / "run")


@pytest.mark.parametrize("pair", REFUSED, ids=" and ".join)
def test_what_does_not_is_refused(pair: tuple[str, str], folder: Path, tmp_path: Path, datasets_cache: Path) -> None:
    settings = {**settings_of(pair, folder), "output_dir": str(tmp_path / "run")}
    with pytest.raises(UserError) as refusal:
        prepare(plan_run(choose_recipe(str(folder / "tiny.yaml"), settings, str), Given()))
    assert REFUSED[pair] in str(refusal.value) and "\n" not in str(refusal.value)
    assert not list((tmp_path / "run").glob("*"))
