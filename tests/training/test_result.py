"""What the folder of a run says of its origin: the base checkpoint's license, or the one that is written."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from matplotlib.figure import Figure
from transformers import ResNetConfig, ResNetForImageClassification

from hf_finetune import finetune
from hf_finetune.cli.main import main
from hf_finetune.evaluation.metrics import METRICS, Metric, as_number
from hf_finetune.jobs.evaluate import evaluate_model
from hf_finetune.training import result
from hf_finetune.training.result import license_of
from tests.helpers.tiny import TINY_RESNET, write_recipe


def test_the_license_is_that_of_the_base_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert license_of("resnet_small_cifar10") == "apache-2.0"
    assert license_of(str(tmp_path)) is None  # a folder without card
    (tmp_path / "README.md").write_text("no metadata")
    assert license_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert license_of(str(tmp_path)) == "mit"
    info = SimpleNamespace(card_data=ModelCardData(license="cc-by-4.0"))
    monkeypatch.setattr(HfApi, "model_info", lambda self, name, **settings: info)
    assert license_of("me/flowers") == "cc-by-4.0"
    monkeypatch.setattr(HfApi, "model_info", lambda self, name, **settings: 1 / 0)  # as good as no network
    assert license_of("me/flowers") is None


@pytest.mark.parametrize(("written", "license"), [({}, "mit"), ({"license": "apache-2.0"}, "apache-2.0")])
def test_the_card_states_the_license_and_where_nothing_lies(image_folder, tmp_path, written, license):
    torch.manual_seed(0)
    base = tmp_path / "base"
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=9)).save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    recipe = write_recipe(tmp_path, model_type=None, model_config=None, model_name_or_path=str(base))
    output = tmp_path / "output"
    finetune(str(recipe), dataset=str(image_folder), output_dir=str(output), num_train_epochs=1, **written)
    card = ModelCard.load(output / "README.md")
    assert card.data.license == license and card.data.base_model is None
    assert "the weights of .../base, trained on" in card.text and f"dataset: '.../{image_folder.name}'" in card.text
    assert str(tmp_path) not in card.content and str(image_folder) not in card.content
    assert f"dataset: {image_folder}\n" in (output / "recipe.yaml").read_text()  # on disk it is still what was run


@pytest.mark.parametrize(
    ("values", "seconds", "expected"),
    [
        ({}, {"train": 600}, 12),
        ({}, {"train": 1e6}, 45),
        ({"time_budget": "10m"}, {"train": 600}, 0),
        ({}, {"train": 40}, 0),
    ],
)
def test_the_report_takes_a_small_part_of_the_time(values, seconds, expected):
    record = SimpleNamespace(recipe=SimpleNamespace(values=values), seconds=seconds)
    assert result._seconds_to_show(record) == expected


def test_a_start_from_random_weights_has_no_license_of_its_own(finished_run):
    assert ModelCard.load(finished_run / "README.md").data.license is None


def test_the_card_s_command_trains_again_from_the_files_of_the_folder(
    finished_run, image_folder, tmp_path, monkeypatch
):
    """As a stranger would: the folder elsewhere, the images elsewhere, and nothing but what the card says."""
    shutil.copytree(finished_run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))
    monkeypatch.chdir(tmp_path / "copy")
    command = Path("README.md").read_text().split("```bash\n")[2].split("\n```")[0]
    assert f"--dataset path/to/{image_folder.name} " in command
    words = shlex.split(command.replace(f"path/to/{image_folder.name}", str(image_folder)))
    assert words[0] == "hf-finetune" and main(words[1:]) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["metrics"]
    first = json.loads((finished_run / "metrics.json").read_text())["metrics"]
    assert {name: again[name] for name in again if name.startswith(("test_accuracy", "test_loss"))} == {
        name: first[name] for name in first if name.startswith(("test_accuracy", "test_loss"))
    }


def test_a_new_metric_costs_one_entry(image_folder, tmp_path, monkeypatch, logged):
    """Log, table, card, JSON, the choice of the best checkpoint and `evaluate` take it from the registry."""
    toy = Metric(lambda predictions: 1.0 + predictions.losses.max(), "toy", "toy figure", "toy_type", as_number, False)
    monkeypatch.setitem(METRICS, "toy", toy)
    recipe, output = write_recipe(tmp_path, num_train_epochs=2, metric_for_best_model="toy"), tmp_path / "output"
    finetune(
        str(recipe), dataset=str(image_folder), output_dir=str(output), load_best_model_at_end=True,
        eval_strategy="epoch", save_strategy="epoch", validation_fraction=0.25,
    )  # fmt: skip
    assert any("validation: loss" in line and "  toy figure " in line for line in logged)
    assert any(line.split()[:1] == ["split"] and line.split()[-1] == "toy" for line in "\n".join(logged).split("\n"))
    card = ModelCard.load(output / "README.md")
    assert "| loss | calibration error | toy figure |" in card.text and "toy_type" in {
        entry.metric_type for entry in card.data.eval_results
    }
    figures = json.loads((output / "metrics.json").read_text())["metrics"]
    assert figures["test_toy"] > 1 and figures["eval_toy"] > 1
    states = [json.loads(path.read_text()) for path in output.glob("checkpoint-*/trainer_state.json")]
    values = [
        entry["eval_toy"]
        for entry in max(states, key=lambda state: state["global_step"])["log_history"]
        if "eval_toy" in entry
    ]
    assert max(states, key=lambda state: state["global_step"])["best_metric"] == min(values)
    evaluated = evaluate_model(str(output), dataset=str(image_folder), use_cpu=True)
    assert evaluated.report.split("\n")[0].endswith("toy")


def test_files_have_the_permissions_of_any_new_file(image_folder, tmp_path):
    output = tmp_path / "output"
    mask = os.umask(0o027)
    try:
        recipe = write_recipe(tmp_path, num_train_epochs=1)
        finetune(str(recipe), dataset=str(image_folder), output_dir=str(output))
    finally:
        os.umask(mask)
    assert {path.name: path.stat().st_mode & 0o777 for path in output.iterdir() if path.is_file()} == {
        path.name: 0o640 for path in output.iterdir() if path.is_file()
    }


@pytest.mark.usefixtures("drawn_plots")  # before monkeypatch, so that it ends after it
def test_a_plot_that_fails_does_not_cost_the_run(image_folder, tmp_path, monkeypatch, logged):
    """Model, card and figures are there before the plots are drawn, and the card shows no plot that is not there."""

    def fail(figure: Figure, file: Path, **settings):
        assert {path.name for path in output.iterdir()} >= {"model.safetensors", "README.md", "metrics.json"}
        raise MemoryError

    monkeypatch.setattr(Figure, "savefig", fail)
    output = tmp_path / "output"
    finetune(str(write_recipe(tmp_path, num_train_epochs=1)), dataset=str(image_folder), output_dir=str(output))
    assert not list(output.glob("*.png")) and ".png" not in (output / "README.md").read_text()
    assert (
        len([line for line in logged if line.startswith("Note: ") and "could not be drawn (MemoryError)" in line]) == 3
    )
    figures = json.loads((output / "metrics.json").read_text())
    assert all(pair["label"] != pair["prediction"] for pair in figures["most_frequent_confusions"])


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "warned"), [(0.0, True), (None, False)])
def test_a_result_that_is_no_better_than_the_largest_class_says_so(image_folder, tmp_path, logged, rate, warned):
    settings = {} if rate is None else {"learning_rate": rate}
    output = tmp_path / "output"
    finetune(str(write_recipe(tmp_path)), dataset=str(image_folder), output_dir=str(output), **settings)
    message = "the model is no better than one that knows no image"
    assert (message in " ".join(logged)) == warned
    assert (message in " ".join((output / "README.md").read_text().split())) == warned
