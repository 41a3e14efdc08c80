"""Runs that are killed at random instants and resumed end as undisturbed ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.harness import Interruption, Tally, assert_same_end, run_interrupted, run_undisturbed, warm_up
from tests.helpers.tiny import write_recipe

pytestmark = pytest.mark.faults

# Dropout, so that a random number drawn once too often shows.
_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.1,
}
_VIT_RECIPE = {"model_type": "vit", "model_config": _VIT, "optim": "adamw_torch", "learning_rate": 0.001}
_EVERY_FEW_STEPS = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 6, "eval_steps": 6}
_MIXED = ["RandomHorizontalFlip", {"RandomChoice": {"transforms": ["MixUp", "CutMix"]}}]
_ACCUMULATION = {"per_device_train_batch_size": 2}
# 65 training images in batches of 4 are 17 steps an epoch, the last of one image.
_SCENARIOS = {
    "epochs": (1, {}),
    "steps, accumulation, dropout": (1, {**_VIT_RECIPE, **_EVERY_FEW_STEPS, **_ACCUMULATION}),
    "epochs, 2 workers, averaged weights": (1, {"dataloader_num_workers": 2, "ema_decay": 0.9, **_VIT_RECIPE}),
    "mixed images, averaged weights": (1, {"train_transforms": _MIXED, "ema_decay": 0.8, **_EVERY_FEW_STEPS}),
    "steps, 2 workers that persist, accumulation": (
        1,
        {
            **_VIT_RECIPE,
            **_EVERY_FEW_STEPS,
            **_ACCUMULATION,
            "dataloader_num_workers": 2,
            "dataloader_persistent_workers": True,
        },
    ),
    "the best only": (1, {"save_strategy": "best", "save_total_limit": 1, "max_steps": 40}),
    "a probed head on features": (1, {"freeze": ["backbone"], "train_transforms": None, "head_init": "probe"}),
    "2 processes, epochs": (2, {}),
    "2 processes, steps, accumulation": (2, {**_VIT_RECIPE, **_EVERY_FEW_STEPS, "per_device_train_batch_size": 1}),
    "2 processes, 2 workers": (2, {"dataloader_num_workers": 2, **_VIT_RECIPE, **_EVERY_FEW_STEPS}),
}


@pytest.fixture(scope="module")
def tally():
    warm_up()
    tally = Tally()
    yield tally
    print(
        f"\n{tally.interruptions} interruptions, {dict(tally.by_signal)}, in {dict(tally.by_phase)};"
        f" {tally.resumed} times resumed; {tally.equal} runs ended equal; at most {max(tally.lost)} steps lost"
    )


@pytest.mark.parametrize("name", _SCENARIOS)
def test_interrupted_runs_end_as_the_undisturbed_one(name: str, image_folder: Path, tmp_path: Path, tally: Tally):
    processes, changes = _SCENARIOS[name]
    recipe = write_recipe(tmp_path, global_batch_size=4, logging_steps=5, **changes)
    words = ["--recipe", str(recipe), "--dataset", str(image_folder)]
    seconds = run_undisturbed(words, tmp_path / "undisturbed", processes)
    print(name, f"{seconds:.1f} s")
    generator = random.Random(name)
    interval = changes.get("save_steps", changes.get("max_steps", 17))
    for chain in range(3):
        folder = tmp_path / str(chain)
        interruptions = [Interruption.draw(generator, seconds, processes) for _ in range(5)]
        run_interrupted(words, folder, processes, interruptions, interval, tally)
        assert_same_end(folder, tmp_path / "undisturbed")
        tally.equal += 1
