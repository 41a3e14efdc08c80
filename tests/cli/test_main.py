"""It opens at once, knows its commands, and leaves with the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_finetune.cli.main import COMMANDS, main
from hf_finetune.config.recipe import packaged_recipes

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "datasets", "evaluate", "matplotlib", "numpy", "sklearn", "PIL")


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("words", [["--help"], [], ["trian"], ["recipes"]])
def test_nothing_heavy_is_imported_for_help_mistyped_verbs_and_the_list(words: list[str]):
    script = (
        f"import sys; from hf_finetune.cli.main import main; main({words!r}); print([*sys.modules], file=sys.stderr)"
    )
    completed = run_python("-c", script)
    assert completed.returncode == 0, completed.stderr
    imported = completed.stderr.splitlines()[-1]
    assert "'hf_finetune.cli.main'" in imported
    assert [name for name in HEAVY if f"'{name}'" in imported] == []


def test_the_package_itself_is_light_and_its_names_are_there():
    completed = run_python("-c", "import sys, hf_finetune; print(dir(hf_finetune)); print([*sys.modules])")
    names, modules = completed.stdout.splitlines()
    assert "'finetune'" in names and "'evaluate_model'" in names and "'UserError'" in names
    assert [name for name in HEAVY if f"'{name}'" in modules] == []


def test_help_names_every_verb_and_the_first_steps(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in COMMANDS)
    assert "hf-finetune train --dataset digits" in out


def test_no_verb_at_all_shows_the_same_help_and_is_a_mistake(capsys):
    assert main([]) == 2
    assert "usage: hf-finetune COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_verb_explains_itself(command: str, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: hf-finetune {command}" in capsys.readouterr().out


def test_the_help_of_train_lists_every_flag_with_its_group(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    for flag in (
        "--recipe",
        "--dataset",
        "--learning_rate",
        "--lr_milestones",
        "--global_batch_size",
        "--on_bad_image",
    ):
        assert f"{flag} " in out or f"[{flag}" in out
    assert "Model:" in out and "Data:" in out and "Training:" in out


def test_recipes_are_listed_with_one_line_each(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(packaged_recipes())
    assert all(len(line.split()) > 3 for line in lines)


def test_a_recipe_is_shown_resolved_and_explained(capsys):
    assert main(["recipes", "show", "resnet50_cifar10", "--learning_rate", "0.005", "--explain"]) == 0
    lines = {line.split(":")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["learning_rate"].split() == ["learning_rate:", "0.005", "#", "--learning_rate"]
    assert lines["dataset"].endswith("# recipes/_base_/datasets/cifar10.yaml")
    assert lines["logging_steps"].endswith("# recipes/resnet50_cifar10.yaml")
    assert main(["recipes", "show", "lenet5_mnist"]) == 0
    assert "#" not in capsys.readouterr().out


@pytest.mark.parametrize(("command", "advice"), [("train", "resumes from the last checkpoint"), ("recipes", "")])
def test_an_interrupted_command_says_so_and_leaves_with_130(command: str, advice: str, capsys, monkeypatch):
    def interrupt(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"hf_finetune.cli.main._{command}", interrupt)
    assert main([command]) == 130
    error = capsys.readouterr().err
    assert error.startswith("\nhf-finetune: interrupted") and error.count("\n") == 2
    assert advice in error and ("checkpoint" in error) == bool(advice)


def test_a_fault_of_our_own_is_not_dressed_up_as_a_mistake(monkeypatch):
    def fail(words: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("hf_finetune.cli.main._recipes", fail)
    with pytest.raises(ZeroDivisionError):
        main(["recipes"])


def test_as_a_module_it_leaves_with_the_exit_code():
    completed = run_python("-m", "hf_finetune", "trian")
    assert completed.returncode == 2 and completed.stdout == ""
    assert completed.stderr.startswith('hf-finetune: error: there is no command "trian". Did you mean "train"?')
    assert completed.stderr.count("\n") == 1
