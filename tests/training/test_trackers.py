"""What trackers hold after a run: the test figures, the plots, the worst mistakes, the recipe and tags. No network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hf_finetune import FinetuneResult, finetune
from hf_finetune.training import trackers
from tests.helpers.tiny import write_recipe

PLOTS = {"confusion_matrix", "reliability_diagram", "training_curve"}
COLUMNS = ["image", "label", "prediction", "probability"]


@pytest.fixture
def trained(tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Trains a network that has mistakes to show, and reports to a tracker."""
    monkeypatch.chdir(tmp_path)

    def train(tracker: str, **settings: object) -> FinetuneResult:
        pytest.importorskip(tracker)
        recipe = write_recipe(tmp_path, num_train_epochs=1, learning_rate=1e-6)
        return finetune(str(recipe), dataset=str(image_folder), output_dir="flowers", report_to=[tracker], **settings)

    return train


def wrong(folder: Path) -> int:
    rows = (folder / "predictions.csv").read_text().splitlines()[1:]
    return sum(row.split(",")[2] != row.split(",")[3] for row in rows)


def test_tensorboard_holds_what_the_folder_holds(trained):
    result = trained("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (result.output_dir / "runs").iterdir()
    held = EventAccumulator(str(events)).Reload()
    (figure,) = held.Scalars("final/test_accuracy")
    assert figure.value == pytest.approx(result.metrics["test_accuracy"]) and figure.step == 5
    assert "final/validation_accuracy" in held.Tags()["scalars"] and "train/loss" in held.Tags()["scalars"]
    assert set(held.Tags()["images"]) == PLOTS

    def text(name: str) -> str:
        return held.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()

    table = text("mistakes").splitlines()
    assert table[0] == f"| {' | '.join(COLUMNS)} |" and len(table) == 2 + wrong(result.output_dir) > 2
    assert "    learning_rate: 1.0e-06\n" in text("recipe") and "dataset: " in text("tags")
    assert '"run_name": "flowers"' in text("args")


def test_mlflow_has_one_run_with_all_of_it(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    result = trained("mlflow")
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED" and run.info.run_name == "flowers" and mlflow.active_run() is None
    assert run.data.metrics["final/test_accuracy"] == pytest.approx(result.metrics["test_accuracy"])
    assert run.data.tags["recipe"] == "tiny" and "eval_accuracy" in run.data.metrics
    assert {Path(file.path).stem for file in client.list_artifacts(run.info.run_id, "plots")} == PLOTS
    mistakes = json.loads(Path(client.download_artifacts(run.info.run_id, "mistakes.json")).read_text())
    assert mistakes["columns"] == COLUMNS and len(mistakes["data"]) == wrong(result.output_dir)


def test_trackio_continues_the_run(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    result = trained("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("huggingface") == ["flowers"]
    logs = SQLiteStorage.get_logs("huggingface", "flowers")
    held = {name: value for entry in logs for name, value in entry.items()}
    assert held["final/test_accuracy"] == pytest.approx(result.metrics["test_accuracy"])
    assert held.keys() >= PLOTS and len(held["mistakes"]["_value"]) == wrong(result.output_dir)


def test_wandb_offline_keeps_plots_and_mistakes(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    result = trained("wandb")
    import wandb

    assert wandb.run.name == "flowers" and wandb.run.config["dataset"]
    assert wandb.run.summary["final/test_accuracy"] == pytest.approx(result.metrics["test_accuracy"])
    folder = Path(wandb.run.dir) / "media"
    wandb.finish()
    assert {path.name.rsplit("_", 2)[0] for path in (folder / "images").iterdir()} == PLOTS
    (table,) = (folder / "table").glob("mistakes*.json")
    held = json.loads(table.read_text())
    assert held["columns"] == COLUMNS and len(held["data"]) == wrong(result.output_dir)


def test_a_head_that_is_the_result_is_reported_too(trained):
    result = trained("tensorboard", num_train_epochs=0, head_init="probe", model_name_or_path="resnet_small_cifar10",
                     model_type=None, model_config=None)  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (result.output_dir / "runs").iterdir()
    (figure,) = EventAccumulator(str(events)).Reload().Scalars("final/test_accuracy")
    assert figure.value == pytest.approx(result.metrics["test_accuracy"]) and figure.step == 0


def test_a_tracker_that_fails_or_is_not_known_costs_a_line(trained, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise ConnectionError("no route to the host\nand more")

    monkeypatch.setitem(trackers._SENDERS, "tensorboard", fail)
    assert (trained("tensorboard").output_dir / "metrics.json").is_file()
    assert (
        "Note: tensorboard did not take the test figures and plots (ConnectionError: no route to the host); they are in"
        in capsys.readouterr().out
    )
    monkeypatch.delitem(trackers._SENDERS, "tensorboard")
    trained("tensorboard", overwrite_output_dir=True)
    assert "Note: tensorboard has the log alone; test figures and plots are in" in capsys.readouterr().out


def test_the_trackers_are_transformers_own():
    assert trackers._SENDERS.keys() <= INTEGRATION_TO_CALLBACK.keys()
