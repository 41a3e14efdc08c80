"""A search: trials of several processes, lost ones, pruned and failed ones, and the best as a recipe.

Most tests put a function in the place of the training.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback

from hf_finetune import Interrupted, UserError, finetune, tune
from hf_finetune.cli.main import main
from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.recipe import load_recipe
from hf_finetune.jobs import tune as job
from tests.helpers.tiny import write_recipe

pytest.importorskip("optuna")
SPACE = {
    "learning_rate": {"low": 0.001, "high": 1.0, "log": True},
    "global_batch_size": {"low": 16, "high": 64},
    "optim": {"choices": ["sgd", "adamw_torch"]},
}
pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Ends a process as SIGKILL does: nothing is told to anybody."""


class Training:
    """Stands in for a run: the figure is best at a learning rate of 0.03 with SGD."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.values: list[tuple] = []
        self.kill_at: int | None = None
        self.fail = False
        self.lock = threading.Lock()

    def __call__(self, recipe, command, given):
        values = recipe.values
        with self.lock:
            folder = Path(values["output_dir"])
            self.folders.append(folder)
            if self.kill_at == len(self.folders):
                raise Killed
            self.values.append((values["learning_rate"], values["global_batch_size"], values["optim"]))
        if self.fail:
            raise UserError("the loss is not finite.")
        figure = 1 - 0.1 * abs(math.log10(values["learning_rate"] / 0.03)) - 0.1 * (values["optim"] != "sgd")
        for epoch in (1, 2):
            for callback in given.callbacks:
                callback.on_evaluate(
                    None, SimpleNamespace(epoch=float(epoch)), None, metrics={"eval_accuracy": figure * epoch / 2}
                )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps({"metrics": {"eval_accuracy": figure}}))


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    stand_in = Training()
    monkeypatch.setattr(job, "run", stand_in)
    return stand_in


def search(folder: Path, trials: int, **settings):
    return tune(SPACE, "digits", trials=trials, output_dir=folder, use_cpu=True, **settings)


@pytest.mark.usefixtures("drawn_plots")
def test_the_best_trial_becomes_a_recipe_that_says_its_number(training, tmp_path, capsys):
    result = search(tmp_path / "study", 12)
    assert sum(result.states.values()) == 12 and result.states["pruned"] >= 1
    assert abs(math.log10(result.best_values["learning_rate"] / 0.03)) < 1 and result.best_values["optim"] == "sgd"
    assert list(result.importances) and sum(result.importances.values()) == pytest.approx(1)
    assert (tmp_path / "study" / "importances.png").is_file()
    values = load_recipe(result.recipe, argument_fields()).values
    assert values["learning_rate"] == result.best_values["learning_rate"] and values["dataset"] == "digits"
    assert "output_dir" not in values
    capsys.readouterr()
    assert main(["recipes", "show", str(result.recipe), "--explain"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("learning_rate:"))
    assert line.endswith(f"trial-{result.best_trial}.yaml")


def test_a_study_that_was_killed_ends_as_one_that_was_not(training, tmp_path, logged):
    whole = search(tmp_path / "whole", 14)
    drawn, training.values, training.folders = training.values, [], []
    training.kill_at = 4
    with pytest.raises(Killed):
        search(tmp_path / "killed", 14)
    training.kill_at = None
    result = search(tmp_path / "killed", 14)
    assert training.folders[3] == training.folders[4]  # the second try resumes where the first one was
    assert any(line.startswith("Trial 3 has lost its process") for line in logged)
    assert training.values == drawn
    assert result.best_values == whole.best_values and result.states == whole.states


def test_two_at_once_lose_no_trial(training, tmp_path):
    threads = [threading.Thread(target=search, args=(tmp_path / "study", 10)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(training.folders) == len(set(training.folders)) == 10
    assert len(set(training.values)) == 10
    assert sum(search(tmp_path / "study", 10).states.values()) == 10


def test_a_trial_whose_processes_all_die_is_given_up(training, tmp_path):
    for _ in range(3):
        training.kill_at = len(training.folders) + 1
        with pytest.raises(Killed):
            search(tmp_path / "study", 2)
    training.kill_at = None
    assert search(tmp_path / "study", 2).states == {"fail": 1, "complete": 1}


def test_more_trials_are_added_and_another_space_or_recipe_is_refused(training, tmp_path):
    search(tmp_path / "study", 2)
    assert sum(search(tmp_path / "study", 3).states.values()) == 3
    assert len(training.folders) == 3
    with pytest.raises(UserError, match="holds a run with momentum 0.9, not 0.8"):
        search(tmp_path / "study", 3, momentum=0.8)
    with pytest.raises(UserError, match="holds a study of another space, in which optim differs"):
        other = {key: SPACE[key] for key in ("learning_rate", "global_batch_size")}
        tune(other, "digits", trials=3, output_dir=tmp_path / "study", use_cpu=True)


def test_trials_that_all_fail_end_the_search(training, tmp_path):
    training.fail = True
    with pytest.raises(UserError, match="^The first 3 trials failed, the last with: the loss is not finite"):
        search(tmp_path / "study", 9)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"learning_rate": 0.1}, r"learning_rate is 0.1, in finetune\(learning_rate=...\), and is searched"),
        ({"push_to_hub": True}, "push_to_hub is True, in .* a search trains many models"),
        ({"overwrite_output_dir": True}, "overwrite_output_dir is True, .* a search adds trials"),
        ({"metric_for_best_model": "acuracy"}, 'metric_for_best_model is "acuracy", .* Did you mean "accuracy"'),
        ({"trials": 0}, "trials is 0; use a number of at least 1"),
    ],
)
def test_mistakes(settings, line, training, tmp_path):
    with pytest.raises(UserError, match=f"^{line}"):
        search(tmp_path / "study", **{"trials": 1, **settings})
    assert not (tmp_path / "study").exists()


def test_without_optuna_one_line_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(job, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'install it with `pip install "hf-finetune\[tune\]"`'):
        search(tmp_path / "study", 1)


def test_a_trial_that_a_signal_ends_resumes_from_its_checkpoint(image_folder, tmp_path, logged):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if Path(args.output_dir).name == "trial-0" and state.global_step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    recipe = str(write_recipe(tmp_path, num_train_epochs=2, global_batch_size=24))
    call = {"trials": 1, "dataset": str(image_folder), "output_dir": tmp_path / "study"}
    space = {"momentum": {"low": 0.5, "high": 0.9}}
    with pytest.raises(Interrupted):
        tune(space, recipe, callbacks=[Stop], **call)
    result = tune(space, recipe, **call)
    assert any("it resumes from checkpoint-" in line for line in logged)
    assert result.states == {"complete": 1} and not list((tmp_path / "study").glob("trial-0/checkpoint-*"))
    alone = finetune(recipe, dataset=str(image_folder), output_dir=tmp_path / "alone", **result.best_values)
    assert alone.metrics["eval_accuracy"] == result.best_value
