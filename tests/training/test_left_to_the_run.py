"""What a recipe leaves to the run with "auto": the epochs, by the number of images; and which recipe it is."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainerCallback

from hf_finetune.config.arguments import argument_fields, build_arguments
from hf_finetune.config.recipe import Recipe, load_recipe
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.training.given import Given
from hf_finetune.training.plan import plan_run
from hf_finetune.training.run import choose_recipe, run
from tests.helpers.tiny import write_recipe


class Stop(TrainerCallback):
    def on_save(self, *_: Any, **__: Any) -> None:
        raise Interrupted(signal.SIGTERM, "stopped")


def arguments(tmp_path: Path, **values: Any) -> FinetuneArguments:
    values = {"output_dir": str(tmp_path), "use_cpu": True, "num_train_epochs": "auto", **values}
    return build_arguments(Recipe("mine", values, dict.fromkeys(values, "a.yaml")))[2]


@pytest.mark.parametrize(
    ("images", "epochs"), [(1, 30), (100, 30), (500, 13), (1_000, 9), (2_000, 7), (10_000, 5), (1_000_000, 5)]
)
def test_few_images_are_seen_more_often(tmp_path: Path, images: int, epochs: int) -> None:
    args = arguments(tmp_path)
    assert math.isnan(args.num_train_epochs)
    assert args.fit_to(images) == {"num_train_epochs": epochs} and args.num_train_epochs == epochs
    assert args.fit_to(images) == {}


def test_stated_epochs_and_a_time_budget_stay(tmp_path: Path) -> None:
    assert arguments(tmp_path, num_train_epochs=3).fit_to(100) == {}
    assert arguments(tmp_path, time_budget="10m").fit_to(100) == {}


def test_what_does_not_fit_the_epochs_is_refused_when_they_are_known(tmp_path: Path) -> None:
    args = arguments(tmp_path, freeze_epochs=5)
    with pytest.raises(UserError, match="freeze_epochs is 5, which leaves none of 5 epochs"):
        args.fit_to(10_000)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_train_epochs", "some", "'some' is not a number, in a.yaml; use one, such as 200.0, or auto."),
        ("learning_rate", "auto", "'auto' is not a number, in a.yaml; use one, such as 0.01."),
    ],
)  # fmt: skip
def test_only_some_keys_are_left_to_the_run(tmp_path: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        arguments(tmp_path, **{key: value})
    assert str(caught.value) == f"{key}: {message}"


@pytest.mark.slow
def test_the_epochs_are_in_the_saved_recipe_and_a_stopped_run_keeps_them(image_folder: Path, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, num_train_epochs="auto", lr_milestones=None, save_strategy="epoch"))
    folder = tmp_path / "output"
    settings = {"output_dir": str(folder), "dataset": str(image_folder)}

    def start(given: Given) -> None:
        run(choose_recipe(recipe, settings, str), "hf-finetune train", given)

    with pytest.raises(Interrupted):
        start(Given(callbacks=(Stop(),)))
    saved = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert saved["num_train_epochs"] == 30
    plan = plan_run(choose_recipe(recipe, settings, str), Given())
    assert plan.checkpoint is not None and plan.args.num_train_epochs == plan.recipe.values["num_train_epochs"] == 30


def test_the_recipe_for_own_images_states_no_epochs() -> None:
    assert load_recipe("finetune", argument_fields()).values["num_train_epochs"] == "auto"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "finetune"),
        ({"model_name_or_path": "microsoft/resnet-18"}, "finetune"),
        ({"pretrained": False}, "from_scratch"),
        ({"model_name_or_path": None, "model_type": "lenet5"}, "from_scratch"),
        ({"model_name_or_path": None, "model_type": "resnet", "load_from": "weights.pth"}, "finetune"),
    ],
)
def test_random_weights_have_a_recipe_of_their_own(caplog, settings: dict[str, Any], name: str) -> None:
    caplog.set_level("INFO", "hf_finetune")
    for recipe in ("finetune", None):
        chosen = choose_recipe(recipe, {"dataset": "someone/toys", "learning_rate": 0.05, **settings}, str)
        assert chosen.name == name and chosen.values["learning_rate"] == 0.05
        assert chosen.values["optim"] == ("sgd" if name == "from_scratch" else "adamw_torch")
    said = "The weights are random, so the recipe is from_scratch and not finetune."
    assert caplog.messages == ([said] * 2 if name == "from_scratch" else [])


def test_a_given_network_that_is_no_checkpoints_has_random_weights() -> None:
    assert choose_recipe(None, {"dataset": "someone/toys"}, str, random_weights=True).name == "from_scratch"
    assert choose_recipe("linear_probe", {"dataset": "someone/toys"}, str, random_weights=True).name == "linear_probe"
