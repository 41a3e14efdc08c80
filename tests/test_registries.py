"""What is added in one place is found everywhere: metric, named dataset, loss, command, source and exporter."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from transformers import AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel

from hf_finetune import finetune
from hf_finetune.cli.command import Command
from hf_finetune.cli.commands import COMMANDS
from hf_finetune.cli.main import main
from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.catalog import CATALOG, DatasetEntry
from hf_finetune.data.sources import open as open_module
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import Location, Source, path_of
from hf_finetune.errors import UserError
from hf_finetune.evaluation.metrics import METRICS, Metric, Predictions
from hf_finetune.exporters.base import Logits
from hf_finetune.exporters.formats import FORMATS, ExportFormat
from hf_finetune.losses import LOSSES
from tests.helpers.tiny import write_recipe

REPOSITORY = Path(__file__).resolve().parents[1]


# ---- a metric, a named dataset and a loss, in one run ----


def error_rate(predictions: Predictions) -> float:
    return float(np.mean(predictions.classes != predictions.labels))


TOY_METRIC = Metric(error_rate, "errors", "rate of errors", "error_rate", greater_is_better=False)
TOY_DATASET = DatasetEntry(name="toys", hub_id="somebody/toys", num_classes=3, split_sizes={"train": 72, "test": 24})


@dataclass(frozen=True)
class ToyRun:
    """A run that used the toys: its folder, what it printed and how often it called the loss."""

    folder: Path
    printed: str
    losses: int


@pytest.fixture(scope="module")
def toys():
    """A metric and a named dataset, each added to its registry and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS, "error_rate", TOY_METRIC)
        patch.setitem(CATALOG, "toys", TOY_DATASET)
        yield


@pytest.fixture(scope="module")
def toy_run(toys: None, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A run on the toy dataset with a loss of its own, whose best checkpoint is that of the toy metric."""
    from hf_finetune.logs import ConsoleHandler, show_logs

    calls: list[int] = []

    def toy_loss(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        calls.append(len(labels))
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    folder = tmp_path_factory.mktemp("toy_run")
    messages: list[str] = []
    show_logs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "toy_loss", toy_loss)
        patch.setattr(ConsoleHandler, "emit", lambda self, record: messages.append(record.getMessage()))
        finetune(
            str(write_recipe(folder, metric_for_best_model="error_rate", num_train_epochs=2)),
            dataset="toys",
            dataset_path=str(image_folder),
            output_dir=str(folder / "output"),
            loss="toy_loss",
        )
    return ToyRun(folder / "output", "\n".join(messages), sum(calls))


@pytest.mark.slow
def test_a_metric_is_in_log_table_card_and_json(toy_run):
    assert "rate of errors " in toy_run.printed  # the line of an evaluation
    heading = next(line for line in toy_run.printed.splitlines() if "balanced" in line)
    assert heading.split()[-1] == "errors"
    card = (toy_run.folder / "README.md").read_text()
    assert "errors |" in card and "type: error_rate" in card
    figures = json.loads((toy_run.folder / "metrics.json").read_text())["metrics"]
    for split in ("eval", "test"):
        assert figures[f"{split}_error_rate"] == pytest.approx(1 - figures[f"{split}_accuracy"])


@pytest.mark.slow
def test_a_metric_chooses_the_best_checkpoint(toy_run):
    newest = max(toy_run.folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((newest / "trainer_state.json").read_text())
    rates = [entry["eval_error_rate"] for entry in state["log_history"] if "eval_error_rate" in entry]
    assert state["best_metric"] == min(rates)


@pytest.mark.slow
def test_a_named_dataset_is_trained_on_and_stands_in_the_card(toy_run):
    assert "somebody/toys" in toy_run.printed
    assert "somebody/toys" in (toy_run.folder / "README.md").read_text()


@pytest.mark.slow
def test_a_loss_is_called_for_every_image(toy_run):
    assert toy_run.losses >= 2 * 65  # the images of two epochs, of which some are held out
    assert "loss: toy_loss" in (toy_run.folder / "recipe.yaml").read_text()


def absolute_error(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the probability of all other classes, a part of 1. It is bounded."""
    return 1 - logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]


def test_a_loss_is_in_help_documentation_and_messages(monkeypatch, capsys):
    monkeypatch.setitem(LOSSES, "absolute_error", absolute_error)
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help-all"])
    assert f"--loss {'|'.join(LOSSES)}" in capsys.readouterr().out
    row = "| `absolute_error` | the probability of all other classes, a part of 1 |"
    assert row in documentation_tables().losses_table()
    assert main(["train", "--dataset", "digits", "--loss", "absolute_eror"]) == 2
    names = ", ".join(LOSSES)
    expected = f'loss is "absolute_eror". Did you mean "absolute_error"? Use one of {names}.'
    assert expected in capsys.readouterr().err


def documentation_tables() -> ModuleType:
    """Return the script that writes the documentation's tables, as a module."""
    spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "docs/site/tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_named_dataset_is_in_documentation_and_messages(toys):
    assert "| `toys` | somebody/toys | 3 | train 72, test 24 |" in documentation_tables().datasets_table()
    with pytest.raises(UserError, match=r"--dataset with a name \(.*\btoys\b"):
        load_image_dataset(DataArguments(), seed=0)
    with pytest.raises(UserError, match=r"\btoys\b"):
        load_image_dataset(DataArguments(dataset="toyz"), seed=0)


# ---- a command ----


class Repeat(Command):
    """Prints a word several times."""

    name = "repeat"
    help = "print a word again and again"
    usage = "WORD [--times N]"

    def register(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("word", help="The word.")
        parser.add_argument("--times", type=int, default=2, help="How often.")

    def run(self, namespace: argparse.Namespace) -> int:
        print(" ".join([namespace.word] * namespace.times))
        return 0


def test_a_command_is_in_help_completion_and_messages(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "repeat", Repeat())
    assert main(["repeat", "again", "--times", "3"]) == 0
    assert capsys.readouterr().out == "again again again\n"
    assert main(["--help"]) == 0
    assert "  repeat" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["repeat", "--help"])
    printed = capsys.readouterr().out
    assert "Print a word again and again." in printed and "--times" in printed and "--log_level" in printed
    assert main(["completion", "bash"]) == 0
    printed = capsys.readouterr().out
    assert "repeat" in printed and "--times" in printed
    assert main(["repaet"]) == 2
    assert "repeat" in capsys.readouterr().err


# ---- a source ----


def read_letters(location: Location) -> RawDataset:
    """Read a file of letters, each of which is an image of one colour and its own class."""
    path = path_of(location)
    letters = path.read_text().strip()
    names = sorted(set(letters))
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=names)})
    images = [{"bytes": b"P6 1 1 255\n" + bytes([ord(letter)] * 3), "path": None} for letter in letters]
    labels = [names.index(letter) for letter in letters]
    split = Dataset.from_dict({"image": images, "label": labels}, features=features)
    return RawDataset({"train": split}, str(path))


LETTERS = Source(
    "a file of letters",
    matches=lambda location: location.path is not None and location.path.suffix == ".letters",
    read=read_letters,
    extensions=(".letters",),
)


def test_a_source_reads_its_datasets_and_is_in_messages(monkeypatch, tmp_path):
    monkeypatch.setattr(open_module, "SOURCES", [LETTERS, *open_module.SOURCES])
    path = tmp_path / "some.letters"
    path.write_text("abcabcabcabc")
    data = load_image_dataset(DataArguments(dataset=str(path), validation_fraction=0), seed=0)
    assert list(data.label_names) == ["a", "b", "c"] and len(data.splits["train"]) == 12
    with pytest.raises(UserError, match="a file of letters"):
        load_image_dataset(DataArguments(), seed=0)


# ---- an exporter ----


def write_copy(
    model: PreTrainedModel, image_processor: BaseImageProcessor, example: torch.Tensor, folder: Path
) -> None:
    model.save_pretrained(folder)
    image_processor.save_pretrained(folder)


def open_copy(folder: Path, arguments: ModelArguments) -> Logits:
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    return lambda pixel_values: model(pixel_values).logits.detach()


COPY = ExportFormat(name="copy", title="a copy", suffix="", write=write_copy, load=open_copy)


@pytest.mark.slow
def test_an_exporter_writes_is_checked_and_is_in_messages(monkeypatch, finished_run, tmp_path, capsys):
    monkeypatch.setitem(FORMATS, "copy", COPY)
    assert main(["export", str(finished_run), "--format", "copy", "--output", str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy" / "model.safetensors").is_file()
    assert "as copy" in capsys.readouterr().out
    assert main(["export", str(finished_run), "--format", "copi", "--output", str(tmp_path / "other")]) == 2
    assert "copy" in capsys.readouterr().err


def test_the_help_of_export_names_each_format(monkeypatch, capsys):
    monkeypatch.setitem(FORMATS, "copy", COPY)
    with pytest.raises(SystemExit, match="0"):
        main(["export", "--help"])
    printed = capsys.readouterr().out
    assert "onnx|safetensors|pt2|openvino|copy" in printed and "copy: a copy" in " ".join(printed.split())


def test_the_registries_name_their_entries_as_these_name_themselves():
    registries: tuple[Mapping[str, Command | DatasetEntry | ExportFormat], ...] = (COMMANDS, CATALOG, FORMATS)
    for registry in registries:
        assert all(entry.name == name for name, entry in registry.items())
