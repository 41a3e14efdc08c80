"""It opens at once, knows its commands, and leaves with the right exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from hf_finetune.cli.command import Command
from hf_finetune.cli.commands import COMMANDS, Recipes
from hf_finetune.cli.main import main
from hf_finetune.cli.train_help import ESSENTIALS
from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.fields import own_fields
from hf_finetune.config.recipe import packaged_recipes
from hf_finetune.logs import get_logger

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "datasets", "evaluate", "matplotlib", "numpy", "sklearn", "PIL")


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)


def test_nothing_heavy_is_imported_for_help_mistyped_commands_and_the_list():
    light = [["--help"], [], ["trian"], ["recipes"], ["--version"], ["completion", "bash"]]
    script = f"""
import sys; from hf_finetune.cli.main import main
for words in {[*light, *([command, "--help"] for command in COMMANDS)]}:
    try: main(words)
    except SystemExit as end: assert end.code == 0, words
    heavy = [name for name in {HEAVY} if name in sys.modules]
    assert not heavy, (words, heavy)
"""
    completed = run_python("-c", script)
    assert completed.returncode == 0, completed.stderr


def test_the_package_itself_is_light_and_its_names_are_there():
    completed = run_python("-c", "import sys, hf_finetune; print(dir(hf_finetune)); print([*sys.modules])")
    names, modules = completed.stdout.splitlines()
    assert "'finetune'" in names and "'evaluate_model'" in names and "'UserError'" in names
    assert [name for name in HEAVY if f"'{name}'" in modules] == []


def test_help_names_every_command_and_the_first_steps(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in COMMANDS)
    assert "hf-finetune train --dataset digits" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_no_command_at_all_shows_the_same_help_and_is_a_mistake(capsys):
    assert main([]) == 2
    assert "usage: hf-finetune COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: hf-finetune {command}" in out
    assert COMMANDS[command].help[1:] in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines())


class Toy(Command):
    """Counts to a number."""

    name = "count"
    help = "count to N"
    usage = "N"

    def register(self, parser):
        parser.add_argument("number", type=int, help="Where to stop.")

    def run(self, namespace):
        print(*range(1, namespace.number + 1))
        return 0


def test_a_command_costs_one_class(capsys, monkeypatch):
    monkeypatch.setitem(COMMANDS, "count", Toy())
    assert main(["count", "3"]) == 0
    assert capsys.readouterr().out == "1 2 3\n"
    assert main(["--help"]) == 0
    assert "\n  count          count to N\n" in capsys.readouterr().out
    assert main(["completion", "bash"]) == 0
    assert "count" in capsys.readouterr().out
    assert main(["conut"]) == 2
    assert 'Did you mean "count"?' in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-finetune {metadata.version('hf-finetune')}\n"


@pytest.mark.parametrize(("level", "shown"), [("info", True), ("warning", False)])
def test_every_command_has_a_log_level(level: str, shown: bool, capsys, monkeypatch):
    def log(self, namespace):
        get_logger("hf_finetune.toy").info("told")
        return 0

    monkeypatch.setattr(Toy, "run", log)
    monkeypatch.setitem(COMMANDS, "count", Toy())
    assert all("log_level" in command.parser().flag_names for command in COMMANDS.values())
    assert main(["count", "3", "--log_level", level]) == 0
    assert ("told" in capsys.readouterr().out) == shown


def test_a_log_level_that_is_none_is_a_mistake(capsys):
    assert main(["predict", "model", "image.png", "--log_level", "loud"]) == 2
    assert "argument --log_level: invalid choice: 'loud'" in capsys.readouterr().err


def test_the_help_of_train_lists_every_flag_with_its_group(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert all(re.search(rf"^  --{name}\b", out, re.MULTILINE) for name in argument_fields())
    assert "%%" not in out
    assert out.index("--sync_batchnorm") < out.index("--adam_beta1")  # our own first
    for flag in (
        "--recipe",
        "--dataset",
        "--learning_rate",
        "--lr_milestones",
        "--global_batch_size",
        "--on_bad_image",
    ):
        assert f"{flag} " in out or f"[{flag}" in out
    assert "model:" in out and "data:" in out and "training:" in out
    words = " ".join(out.split())
    assert "--lr_gamma X Factor of multistep at each milestone. Default: 0.1." in words
    assert "Default: adamw" not in words  # of our own: sgd


def test_the_help_of_train_is_one_screen_of_the_keys_that_people_use(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert left.value.code == 0
    assert len(lines) <= 42 and all(len(line) <= 80 for line in lines)
    shown = [name for keys in ESSENTIALS.values() for name in keys]
    assert len(shown) == len(set(shown)) and set(shown) <= own_fields().keys()
    assert all(any(line.startswith(f"  --{name}") for line in lines) for name in shown)
    assert "  --learning_rate X               after the warm-up [0.01]" in lines
    assert any("--on_bad_image stop|skip" in line and line.endswith("[stop]") for line in lines)


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
    def interrupt(self, namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(COMMANDS[command]), "run", interrupt)
    assert main([command]) == 130
    error = capsys.readouterr().err
    assert error.startswith("\nhf-finetune: interrupted") and error.count("\n") == 2
    assert advice in error and ("checkpoint" in error) == bool(advice)


def test_a_fault_of_our_own_is_not_dressed_up_as_a_mistake(monkeypatch):
    def fail(self, namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(Recipes, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["recipes"])


def test_as_a_module_it_leaves_with_the_exit_code():
    completed = run_python("-m", "hf_finetune", "trian")
    assert completed.returncode == 2 and completed.stdout == ""
    assert completed.stderr.startswith('hf-finetune: error: there is no command "trian". Did you mean "train"?')
    assert completed.stderr.count("\n") == 1
