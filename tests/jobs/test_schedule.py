"""`schedule` foretells what a training does: rates of every group and momentum step by step, averages, sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import TrainerCallback

from hf_finetune import UserError, schedule
from hf_finetune.cli.main import main
from hf_finetune.jobs.schedule import foretell
from hf_finetune.training.extensions.image_sizes import ImageSizes
from hf_finetune.training.extensions.time_budget import factor_at
from tests.helpers.networks import deep_resnet, make_model
from tests.helpers.tiny import TINY_RECIPE, write_recipe
from tests.helpers.trainers import make_trainer


class Steps(TrainerCallback):
    """Keeps what the optimizer has at the beginning of each step."""

    def __init__(self) -> None:
        self.groups: list[list[tuple[float, float, int]]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.groups.append(
            [
                (group["lr"], group.get("momentum") or group["betas"][0], len(group["params"]))
                for group in optimizer.param_groups
            ]
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"lr_scheduler_type": "multistep", "lr_milestones": [1.5], "warmup_epochs": 0.75, "momentum": 0.8},
        {"lr_scheduler_type": "cosine", "layer_decay": 0.5, "head_lr_multiplier": 3.0, "freeze_epochs": 1},
        {"lr_scheduler_type": "one_cycle", "optim": "adamw_torch", "per_device_train_batch_size": 8, "max_steps": 7},
    ],
)
def test_it_foretells_what_a_training_does(settings, tmp_path):
    recipe = {"num_train_epochs": 3, "learning_rate": 0.01, **settings}
    foretold = foretell(make_trainer(tmp_path / "a", make_model("resnet"), **recipe))
    trainer, steps = make_trainer(tmp_path / "b", make_model("resnet"), **recipe), Steps()
    trainer.add_callback(steps)
    trainer.train()
    logged = {entry["step"]: entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry}
    assert foretold.points.tolist() == list(logged) == list(range(1, trainer.state.max_steps + 1))
    assert foretold.groups[0].learning_rates.tolist() == list(logged.values())
    rates = [{group[0] for group in step} for step in steps.groups]
    assert [{group.learning_rates[place] for group in foretold.groups} for place in range(len(rates))] == rates
    assert foretold.momentum is not None
    assert foretold.momentum.tolist() == [step[0][1] for step in steps.groups]
    assert sum(group.tensors for group in foretold.groups) == sum(group[2] for group in steps.groups[0])
    assert foretold.head_alone_epochs == settings.get("freeze_epochs", 0)
    assert foretold.epochs_at is not None and foretold.epochs_at[-1] < trainer.state.epoch <= foretold.epochs


def test_averages_and_sizes_are_those_of_their_extensions(tmp_path, monkeypatch):
    recipe = {"ema_decay": 0.9, "image_size_schedule": {0.0: 8, 0.6: 16}, "num_train_epochs": 2}
    foretold = foretell(make_trainer(tmp_path / "a", make_model("resnet"), **recipe))
    trainer = make_trainer(tmp_path / "b", make_model("resnet"), **recipe)
    decays: list[float] = []
    monkeypatch.setattr(
        "hf_finetune.training.extensions.ema.update_average", lambda averages, weights, decay: decays.append(decay)
    )
    sizes: list[int | None] = []

    class Sizes(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            sizes.append(trainer.device_stage.training_size)

    trainer.add_callback(Sizes())
    assert trainer.extensions.find(ImageSizes) is not None
    trainer.train()
    assert foretold.ema_decay is not None and foretold.ema_decay.tolist() == decays
    assert foretold.image_sizes is not None and foretold.image_sizes.tolist() == sizes
    assert [name for name, _ in foretold.panels()] == ["learning rate", "momentum", "EMA decay", "pixels"]


def test_a_time_budget_is_drawn_over_its_share(tmp_path):
    settings: dict[str, Any] = {"time_budget": "10m", "eval_strategy": "no", "learning_rate": 0.2}
    foretold = foretell(make_trainer(tmp_path, make_model("resnet"), **settings))
    assert foretold.by_time and foretold.points[0] == 0 and foretold.points[-1] == 1
    expected = [0.2 * factor_at(share) for share in foretold.points]
    assert foretold.groups[0].learning_rates == pytest.approx(expected, abs=1e-12)
    assert foretold.epochs is None and foretold.as_mapping()["steps"] is None
    assert "over the time for training" in foretold.text() and "share" in foretold.text()


@pytest.mark.usefixtures("drawn_plots")
def test_the_command_draws_and_prints(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path, head_lr_multiplier=10, ema_decay=0.9)
    command = ["schedule", "--recipe", str(recipe), "--dataset", str(image_folder)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "multistep over 15 steps, 3 epochs: 65 images in batches of 16, 5 steps an epoch" in printed
    assert "rate 2, head: 0.5 at most" in printed and "The plot is schedule.png." in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["10", "1.80", "0.05", "0.5", "0.9", "0.55"] in rows and [
        "11",
        "2.00",
        "0.005",
        "0.05",
        "0.9",
        "0.5714",
    ] in rows
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["steps"] == 15 and len(document["groups"][1]["learning_rates"]) == 15
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "schedule.png", "schedule-2.png"}


def test_a_lone_image_that_joins_a_batch_makes_no_step(tmp_path):
    from hf_finetune.training.sanity_check import settle_lone_image

    trainer = make_trainer(tmp_path, deep_resnet(), count=33)
    settle_lone_image(trainer)
    assert trainer.joins_lone_image and foretell(trainer).steps_per_epoch == 2


def test_long_runs_are_thinned_out_for_json_alone(tmp_path):
    foretold = foretell(make_trainer(tmp_path, make_model("resnet"), max_steps=5000, lr_milestones=[600]))
    document = foretold.as_mapping()
    assert len(foretold.points) == document["steps"] == 5000 and len(document["points"]) == 2000
    assert document["points"][0] == 1 and document["points"][-1] == 5000
    assert "2400" in foretold.text() and "2401" in foretold.text()  # where the rate falls
    assert np.all(np.diff(foretold.points) == 1)


def test_mistakes_and_what_is_not_known_before(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["schedule", "--recipe", str(write_recipe(tmp_path)), "--dataset", str(image_folder)]
    for words, message in (
        (["--output", "plot.pdf"], "--output is plot.pdf; use the name of a file that ends in .png."),
        (["--num_train_epochs", "0"], "num_train_epochs is 0, so the run takes no step"),
        (["--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", "{pover: 2}"], "cannot be used: "),
    ):
        assert main([*command, *words]) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml"}
    result = schedule(
        TINY_RECIPE,
        dataset=image_folder,
        lr_scheduler_type="reduce_lr_on_plateau",
        early_stopping_patience=2,
        output=tmp_path / "a" / "plot.png",
    )
    assert set(result.groups[0].learning_rates) == {0.05} and Path("a/plot.png").is_file()
    assert "goes by a metric of validation" in result.notes[0] and "early_stopping_patience" in result.notes[1]
    with pytest.raises(UserError, match="^output is plot.jpg; use the name"):
        schedule(TINY_RECIPE, dataset=image_folder, output="plot.jpg")
