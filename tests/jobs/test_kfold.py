"""Cross-validation: each image is predicted by the model that has not seen it, and an interrupted one ends the same."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerCallback

from hf_finetune import Interrupted, KFoldResult, UserError, evaluate, kfold, predict
from hf_finetune.cli.main import main
from hf_finetune.evaluation.metrics import METRICS
from hf_finetune.jobs.fold_result import mean_interval
from hf_finetune.jobs.held_out import HeldOut
from tests.helpers.tiny import write_recipe

FOLDS = 3
SETTINGS = {"use_cpu": True, "disable_tqdm": True}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_recipe(tmp_path_factory.mktemp("recipe"), num_train_epochs=2, global_batch_size=24))


@pytest.fixture(scope="module")
def whole(recipe: str, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> KFoldResult:
    """Three folds that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "kfold"
    return kfold(recipe, folds=FOLDS, dataset=str(image_folder), output_dir=folder)


def table_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out_of_fold.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_each_image_is_in_the_table_once_with_its_fold_and_its_class(whole):
    rows = table_of(whole.output_dir)
    assert [int(row["row"]) for row in rows] == list(range(72))
    assert {row["fold"] for row in rows} == {"1", "2", "3"}
    for row in rows:
        assert row["image"].startswith(f"train/{row['label']}/")
        shares = {name: float(row[f"p_{name}"]) for name in ("blue", "green", "red")}
        assert max(shares, key=shares.get) == row["prediction"] and sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert float(row["score"]) == max(shares.values())
    correct = np.mean([row["label"] == row["prediction"] for row in rows])
    assert whole.metrics["accuracy"] == pytest.approx(correct) and whole.metrics["samples"] == 72


def test_the_figures_of_a_fold_are_those_of_its_run(whole):
    written = json.loads((whole.output_dir / "metrics.json").read_text())
    for number, figures in enumerate(whole.folds, 1):
        run = json.loads((whole.output_dir / f"fold-{number}" / "metrics.json").read_text())
        for name in ("accuracy", "loss", "macro_f1"):
            assert figures[name] == pytest.approx(run["metrics"][f"eval_{name}"], abs=1e-6)
        assert f"fold: {number}/3" in (whole.output_dir / f"fold-{number}" / "recipe.yaml").read_text()
    accuracies = [figures["accuracy"] for figures in whole.folds]
    assert written["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert written["mean"]["accuracy_interval"] == pytest.approx(mean_interval(accuracies, clip=True))
    table = whole.table()
    assert "fold 3 (24 images)" in table and "mean of 3 folds" in table and "ensemble on test (24" in table


def test_the_folder_is_an_ensemble_for_evaluate_and_predict(whole, image_folder):
    result = evaluate(whole.output_dir, dataset=image_folder, **SETTINGS)
    assert result.metrics["loss"] == pytest.approx(whole.test["loss"], abs=1e-6)
    assert result.metrics["accuracy"] == whole.test["accuracy"]
    image = image_folder / "test" / "red" / "00.png"
    members = [predict(whole.output_dir / f"fold-{number}", image, top_k=3)[0] for number in (1, 2, 3)]
    (together,) = predict(whole.output_dir, image, top_k=3)
    for name, score in together.classes:
        assert score == pytest.approx(np.mean([dict(member.classes)[name] for member in members]), abs=1e-6)


def test_a_fold_that_is_killed_resumes_and_the_end_is_the_same(whole, recipe, image_folder, tmp_path, logged):
    class Kill(TrainerCallback):
        """Ends the second fold in its second epoch."""

        def on_step_end(self, args, state, control, **kwargs):
            if Path(args.output_dir).name == "fold-2" and state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    call = {"folds": FOLDS, "dataset": str(image_folder), "output_dir": tmp_path / "kfold"}
    with pytest.raises(Interrupted):
        kfold(recipe, callbacks=[Kill], **call)
    assert not (tmp_path / "kfold" / "ensemble.json").exists()
    first = (tmp_path / "kfold" / "fold-1" / "model.safetensors").stat().st_mtime_ns
    resumed = kfold(recipe, **call)
    assert "Fold 1 of 3 is complete." in logged
    assert any("it resumes from checkpoint-" in line for line in logged)
    assert (tmp_path / "kfold" / "fold-1" / "model.safetensors").stat().st_mtime_ns == first
    for name in ("out_of_fold.csv", "metrics.json", "fold-2/model.safetensors", "fold-3/model.safetensors"):
        assert (tmp_path / "kfold" / name).read_bytes() == (whole.output_dir / name).read_bytes(), name
    assert resumed.metrics == whole.metrics


def test_the_same_command_again_shows_the_figures(whole, recipe, image_folder, capsys):
    flags = ["--recipe", recipe, "--dataset", str(image_folder), "--folds", "3"]
    capsys.readouterr()
    assert main(["kfold", *flags, "--output_dir", str(whole.output_dir)]) == 0
    printed = capsys.readouterr().out
    assert whole.table() in printed and "epoch" not in printed
    assert main(["kfold", *flags, "--output_dir", str(whole.output_dir), "--learning_rate", "0.1"]) == 2
    line = f"output_dir: {whole.output_dir / 'fold-1'} holds a run with learning_rate 0.05, not 0.1; use another"
    assert line in capsys.readouterr().err


def test_other_data_in_the_same_folder_are_refused(whole, recipe, image_folder, tmp_path):
    copy, images = tmp_path / "kfold", tmp_path / "images"
    shutil.copytree(whole.output_dir, copy)
    shutil.copytree(image_folder, images)
    (images / "train" / "red" / "00.png").unlink()
    with pytest.raises(UserError, match="the data have changed since .* train has 71 images and had 72"):
        kfold(recipe, folds=FOLDS, dataset=str(images), output_dir=copy)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"folds": 1}, "folds is 1; use a number from 2"),
        ({"fold": "1/3"}, r"fold is 1/3, in finetune\(fold=...\), and kfold trains on each fold in turn; leave it out"),
        ({"push_to_hub": True}, r"push_to_hub is True, in .* kfold trains several models"),
        ({"folds": 30}, "There are 30 folds, and no class has more than 24 images"),
        ({"streaming": True}, "fold divides images before training"),
    ],
)
def test_mistakes(settings, line, recipe, image_folder, tmp_path):
    with pytest.raises(UserError, match=f"^{line}"):
        kfold(recipe, dataset=str(image_folder), output_dir=tmp_path / "kfold", **settings)
    assert not (tmp_path / "kfold").exists()


def test_a_folder_of_something_else_is_left_alone(recipe, image_folder, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds thesis\.tex, which is no fold's"):
        kfold(recipe, dataset=str(image_folder), output_dir=tmp_path)


def test_an_ensemble_is_refused_where_one_model_is_needed(whole, image_folder, tmp_path, capsys):
    folder = str(whole.output_dir)
    flags = ["--dataset", str(image_folder), "--output_dir", str(tmp_path / "run"), "--use_cpu"]
    assert main(["train", *flags, "--model_name_or_path", folder]) == 2
    assert f"{folder} is an ensemble; fine-tune one of its members, {folder}/fold-1" in capsys.readouterr().err
    assert main(["export", folder, "--format", "safetensors", "--output", str(tmp_path / "out")]) == 2
    assert "An ensemble has no weights of its own; use --format onnx" in capsys.readouterr().err
    copy = tmp_path / "moved"
    copy.mkdir()
    shutil.copy(whole.output_dir / "ensemble.json", copy)
    assert main(["predict", str(copy), str(image_folder / "test")]) == 2
    assert "ensemble.json names fold-1, which is not there" in capsys.readouterr().err
    (copy / "ensemble.json").write_text('{"members": ["../fold-1"]}')
    assert main(["predict", str(copy), str(image_folder / "test")]) == 2
    assert "its members are not names of folders beside it" in capsys.readouterr().err


def test_the_interval_of_a_mean_is_students():
    """Of 1, 2, 3: the standard error is 1 / sqrt(3), and 97.5 % of t with 2 degrees of freedom are below 4.3027."""
    low, high = mean_interval([1, 2, 3], clip=False)
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5)
    assert mean_interval([0.98, 1.0, 1.0], clip=True)[1] == 1


def test_figures_of_probabilities_leave_out_images_without_a_label():
    answers = HeldOut(
        np.arange(3), np.array([0, -100, 1]), np.array([[0.75, 0.25], [1, 0], [0.5, 0.5]], dtype=np.float32)
    )
    figures, intervals = answers.figures(["a", "b"], METRICS)
    assert figures["samples"] == 2 and figures["loss"] == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    assert set(intervals) == {"accuracy", "macro_f1", "balanced_accuracy"}
