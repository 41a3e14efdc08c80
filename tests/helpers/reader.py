"""What a document says, and a reader who follows it from block to block with the jobs themselves left out."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from benchmarks import __main__ as benchmarks
from hf_finetune.cli import main as cli
from hf_finetune.config.arguments import argument_fields, build_arguments
from hf_finetune.config.recipe import Recipe, load_recipe, override
from hf_finetune.jobs.check_result import CheckResult, ImageFacts
from hf_finetune.jobs.import_config import import_as_recipe
from hf_finetune.jobs.predict_folder import PredictedFolder
from tests.helpers.processes import REPOSITORY

SCRIPT = "scripts/run_finetune.py"
TRACKERS = ["mlflow", "tensorboard"]  # that the pages report to; the tests need not have them


@dataclass(frozen=True)
class Block:
    """A fenced block: its info string, its text, and where it begins ("docs/tutorial.md:12")."""

    info: str
    text: str
    place: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a bash block, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(.*)\n((?:(?!```).*\n)*)```$", text, re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[1].strip(), match[2], f"{document.relative_to(REPOSITORY)}:{line}"))
    assert text.count("\n```") == 2 * len(found), f"a block of {document.name} is not closed, or indented"
    return found


class Reader:
    """Follows a document in an empty folder, doing what its blocks say."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.chdir(folder)
        self.printed = ""
        self.jobs: list[str] = []
        self.capsys = capsys
        # What a document names is the reader's own.
        monkeypatch.setattr("hf_finetune.training.choice.find_source", lambda _: None)
        monkeypatch.setattr("hf_finetune.training.choice.resolve_checkpoint", lambda _: None)
        monkeypatch.setattr("hf_finetune.data.image_list.check_paths", lambda _: None)
        monkeypatch.setattr("hf_finetune.training.run.run", self.train)
        monkeypatch.setattr("hf_finetune.jobs.evaluate.evaluate_model", self.job("evaluate"))
        monkeypatch.setattr("hf_finetune.jobs.kfold.run_folds", self.job("kfold"))
        monkeypatch.setattr("hf_finetune.jobs.tune.run_study", self.job("tune"))
        monkeypatch.setattr("hf_finetune.jobs.lr_finder.find_learning_rate", self.job("lr-finder"))
        monkeypatch.setattr("hf_finetune.jobs.browse.browse_images", self.job("browse"))
        monkeypatch.setattr("hf_finetune.jobs.schedule.show_schedule", self.job("schedule"))
        monkeypatch.setattr("hf_finetune.jobs.compare.compare_models", self.job("compare"))
        monkeypatch.setattr("hf_finetune.jobs.predict.predict_files", self.job("predict"))
        monkeypatch.setattr("hf_finetune.jobs.predict_folder.predict_to_folder", self.folder_job)
        monkeypatch.setattr("hf_finetune.jobs.explain.explain_files", self.job("explain"))
        monkeypatch.setattr("hf_finetune.jobs.check.run_check", self.check_job)
        monkeypatch.setattr("hf_finetune.jobs.stats.run_stats", self.job("stats"))
        monkeypatch.setattr("hf_finetune.serving.server.serve", self.job("serve"))
        monkeypatch.setattr("hf_finetune.jobs.report.report_run", self.job("report"))
        monkeypatch.setattr("hf_finetune.jobs.model_summary.run_summary", self.job("summary"))
        monkeypatch.setattr("hf_finetune.jobs.export.export_model", self.job("export"))
        monkeypatch.setattr("hf_finetune.hub.push.push_folder", self.job("push"))
        monkeypatch.setattr("hf_finetune.hub.space.write_space", self.job("space"))
        monkeypatch.setattr("hf_finetune.jobs.convert.convert_weights", self.job("convert"))
        monkeypatch.setattr("hf_finetune.jobs.import_config.import_as_recipe", self.import_config)
        for name, module in list(sys.modules.items()):
            if name.startswith("hf_finetune.config.") and hasattr(module, "get_available_reporting_integrations"):
                monkeypatch.setattr(module, "get_available_reporting_integrations", lambda: TRACKERS)

    def train(self, recipe: Recipe, command: str, began: float) -> None:
        self.jobs.append("train")
        self.check(recipe)

    def check(self, recipe: Recipe) -> None:
        # Where the tests run there may be any number of devices; a document means one.
        build_arguments(override(recipe, {"use_cpu": True, "output_dir": "runs/none"}))

    def import_config(self, config: str, output: Path | None = None) -> str:
        self.jobs.append("import-config")
        return import_as_recipe(config, output) if Path(config).is_file() else ""  # or a config that the reader has

    def job(self, command: str) -> Callable[..., list[str]]:
        def stand_in(*arguments: Any, **settings: Any) -> list[str]:
            self.jobs.append(command)
            return []

        return stand_in

    def check_job(self, **settings: Any) -> CheckResult:
        self.jobs.append("check")
        return CheckResult("images", {}, ImageFacts((1, 1, 1), (1, 1, 1), {}, {}), [])

    def folder_job(self, *arguments: Any, **settings: Any) -> PredictedFolder:
        self.jobs.append("predict")
        return PredictedFolder(Path(arguments[2]), [], 0, 0)

    def read(self, block: Block) -> None:
        if block.info.startswith("yaml"):
            word, *append, name = block.info.split()[1:]
            assert word == "recipe" and append in ([], ["append"]), block.place
            with open(name, "a" if append else "w", encoding="utf-8") as file:
                file.write(block.text)
            recipe = load_recipe(name, argument_fields())
            assert recipe.values
            self.check(recipe)
        elif block.info.startswith("python config"):
            Path(block.info.split()[2]).write_text(block.text, encoding="utf-8")
        elif block.info == "bash":
            for words in block.commands:
                self.run(words)
        elif block.info == "text output":
            assert self.printed == block.text, block.place
        else:
            assert block.info in ("python", "text"), f"{block.place}: {block.info}"

    def run(self, words: list[str]) -> None:
        program, *rest = words
        if program == "hf-finetune":
            jobs = len(self.jobs)
            self.capsys.readouterr()
            code = cli.main(rest)
            self.printed, errors = self.capsys.readouterr()
            assert code == 0, f"{shlex.join(words)}: {errors}"
            assert rest[0] == "recipes" or self.jobs[jobs:] == [rest[0]], words
        elif program == "torchrun" or words[:2] == ["accelerate", "launch"]:
            parser = get_args_parser() if program == "torchrun" else launch_command_parser()
            launcher = parser.parse_args(rest if program == "torchrun" else rest[1:])
            assert program == "torchrun" or launcher.quiet, words
            if launcher.module:
                assert launcher.training_script == "hf_finetune", words
                self.run(["hf-finetune", *launcher.training_script_args])
                return
            assert launcher.training_script == SCRIPT and (REPOSITORY / SCRIPT).is_file(), words
            self.run(["hf-finetune", "train", *launcher.training_script_args])
        elif program == "sbatch":
            script = words.index("scripts/slurm.sh")
            assert (REPOSITORY / words[script]).is_file()
            self.run(["hf-finetune", "train", *words[script + 1 :]])
        elif program == "export":
            assert "=" in rest[0], words
        elif program == "make":
            targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
            assert rest and set(rest) <= set(targets), words
        elif words[:3] == ["python", "-m", "benchmarks"]:
            benchmarks.parse(words[3:])
        else:
            assert words[:2] == ["hf", "download"], words
