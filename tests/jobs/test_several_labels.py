"""The whole way with several labels: train, save, evaluate, predict, pipeline, export, card, features and a resume."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import pipeline

from hf_finetune import evaluate, export, finetune, kfold, predict
from hf_finetune.cli.main import main
from hf_finetune.errors import Interrupted, UserError
from tests.helpers.interrupting import StopAfterAStep
from tests.helpers.mistakes import refuse
from tests.helpers.tiny import write_recipe

NAMES = ["blue", "green", "red"]  # the channels, in the order of the names


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of 16 x 16 pixels in which each of three channels is bright or dark, and its table."""
    folder = tmp_path_factory.mktemp("channels")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(96):
        bright = generator.random(3) < 0.4
        pixels = np.where(bright[::-1], 190, 60) + generator.normal(0, 20, (16, 16, 3))
        PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        labels = [name for name, has in zip(NAMES, bright, strict=True) if has]
        rows.append({"image": f"{number}.png", "labels": labels, "split": "test" if number % 4 == 0 else "train"})
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "table.jsonl"


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on them, which mixes images and keeps its thresholds."""
    folder = tmp_path_factory.mktemp("run")
    mixing = {"RandomChoice": {"transforms": [{"MixUp": {"alpha": 0.2}}, "Identity"], "p": [0.3, 0.7]}}
    transforms = ["RandomHorizontalFlip", mixing]
    recipe = write_recipe(folder, train_transforms=transforms, num_train_epochs=8, lr_milestones=[7])
    finetune(str(recipe), dataset=str(table), output_dir=str(folder / "output"), validation_fraction=0.25)
    return folder / "output"


def test_it_learns_and_saves_what_pipeline_needs(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert len(config["thresholds"]) == 3 and all(0 < threshold < 1 for threshold in config["thresholds"])
    saved = json.loads((run / "metrics.json").read_text())
    assert saved["metrics"]["test_mAP"] > 0.95 and saved["metrics"]["test_micro_f1"] > 0.8
    assert [row["threshold"] for row in saved["per_class"]] == config["thresholds"]
    assert (run / "precision_recall.png").is_file() and not (run / "confusion_matrix.png").exists()


def test_evaluate_predict_and_pipeline_agree(run: Path, table: Path, tmp_path: Path) -> None:
    result = evaluate(str(run), dataset=str(table), output=tmp_path / "figures.json", use_cpu=True, disable_tqdm=True)
    saved = json.loads((run / "metrics.json").read_text())["metrics"]
    for name in ("mAP", "micro_f1", "macro_f1", "loss"):
        assert result.metrics[name] == pytest.approx(saved[f"test_{name}"], abs=1e-6)
    files = [table.parent / f"{number}.png" for number in range(0, 96, 4)]
    predictions = predict(str(run), files)
    classifier = pipeline("image-classification", model=str(run))
    for row, (file, prediction) in enumerate(zip(files, predictions, strict=True)):
        given = {NAMES[class_id] for class_id in np.flatnonzero(result.predictions[row])}
        assert {name for name, _ in prediction.classes} == given
        scores = {answer["label"]: answer["score"] for answer in classifier(PIL.Image.open(file), top_k=None)}
        assert all(score == pytest.approx(scores[name], abs=1e-5) for name, score in prediction.classes)
        logit = result.answers.logits[row]  # type: ignore[attr-defined]
        assert list(torch.tensor(logit).sigmoid()) == pytest.approx([scores[name] for name in NAMES], abs=1e-5)
    assert json.loads((tmp_path / "figures.json").read_text())["per_class"][0]["average_precision"] > 0.9
    assert (tmp_path / "figures_precision_recall.png").is_file()
    with pytest.raises(UserError, match="Images with several labels have no confusion matrix"):
        result.confusion_matrix()


def test_a_table_of_each_image_and_views(run: Path, table: Path, tmp_path: Path) -> None:
    result = evaluate(
        str(run), dataset=str(table), output=tmp_path / "rows.csv", tta="flip", use_cpu=True, disable_tqdm=True
    )
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    labels = {"|".join(row) for row in (["blue"], ["green"], ["red"], ["blue", "red"], [])}
    assert labels & {row["label"] for row in rows} and len(rows) == 24
    assert set(rows[0]) == {"row", "label", "prediction", "loss", "tta_prediction"}
    assert result.tta is not None and result.tta.metrics["mAP"] == pytest.approx(result.metrics["mAP"], abs=0.05)


def test_predict_by_another_threshold(run: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(table.parent / "0.png")
    assert main(["predict", str(run), image, "--threshold", "0", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)[0]["predictions"]
    assert len(answers) == 3
    limit = str(answers[0]["score"] + 1e-3)
    assert main(["predict", str(run), image, "--threshold", limit]) == 0
    assert capsys.readouterr().out == f"{image}: no class\n"
    assert main(["predict", str(run), image, "--threshold", limit, "--csv"]) == 0
    assert capsys.readouterr().out.splitlines() == ["file,rank,label,score", f"{image},,,"]
    assert len(predict(str(run), image, top_k=2)[0].classes) == 2
    with pytest.raises(UserError, match="No class of .* reaches its threshold"):
        predict(str(run), image, threshold=float(limit))[0].label  # noqa: B018


def test_an_export_answers_the_same(run: Path, table: Path, tmp_path: Path) -> None:
    path = export(str(run), output=tmp_path / "model.onnx", dataset=str(table))
    image = str(table.parent / "4.png")
    first, second = (predict(model, image, threshold=0)[0].classes for model in (str(run), path))
    assert dict(first) == pytest.approx(dict(second), abs=1e-5)
    assert [name for name, _ in predict(path, image)[0].classes] == [
        name for name, _ in predict(str(run), image)[0].classes
    ]


def test_the_card_says_how_classes_are_given(run: Path) -> None:
    card = (run / "README.md").read_text()
    assert "An image classifier of 3 classes, any number of them for each image" in card
    assert 'classifier("image.jpg", top_k=None)' in card and "`thresholds` of `config.json`" in card
    assert "![Precision and recall of each class](precision_recall.png)" in card
    assert "| class | AP | threshold | precision | recall | F1 | images |" in card and "Confusion" not in card


def test_a_frozen_backbone_is_probed_and_its_features_kept(
    run: Path, table: Path, tmp_path: Path, datasets_cache: Path, logged: list[str]
) -> None:
    recipe = write_recipe(tmp_path, model_type=None, model_config=None, train_transforms=None, num_train_epochs=1)
    (tmp_path / "base").mkdir()
    for name in ("model.safetensors", "preprocessor_config.json"):
        (tmp_path / "base" / name).write_bytes((run / name).read_bytes())
    config = json.loads((run / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "x", "1": "y", "2": "z"}, {"x": 0, "y": 1, "z": 2}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    settings: dict[str, Any] = {"model": str(tmp_path / "base"), "dataset": str(table), "freeze": ["backbone"]}
    result = finetune(str(recipe), head_init="probe", output_dir=tmp_path / "output", **settings)
    assert result.metrics["test_mAP"] > 0.9
    assert any(message.startswith("Head: probed on ") and ", mAP " in message for message in logged)
    assert any(message.startswith("Features of train: ") for message in logged)
    with pytest.raises(UserError, match="head_init class_means is for one class per image; use head_init=.probe"):
        finetune(str(recipe), head_init="class_means", output_dir=tmp_path / "means", **settings)


def test_an_interrupted_run_ends_as_one_that_was_not(run: Path, table: Path, tmp_path: Path) -> None:
    def train(**more: Any) -> None:
        finetune(
            str(run.parent / "tiny.yaml"), dataset=str(table), output_dir=tmp_path, validation_fraction=0.25, **more
        )

    with pytest.raises(Interrupted):
        train(callbacks=[StopAfterAStep])
    train()
    assert (tmp_path / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    thresholds = [json.loads((folder / "config.json").read_text())["thresholds"] for folder in (tmp_path, run)]
    assert thresholds[0] == thresholds[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sampling", "balanced"], "sampling chooses images by their one class; for rare labels use"),
        (["--loss", "cross_entropy"], "loss is cross_entropy, which has one class for each image"),
        (["--metric_for_best_model", "ece"], 'metric_for_best_model is "ece", which is not measured. Use one of mAP'),
    ],
)
def test_mistakes_are_one_line(refused: Callable[..., str], table: Path, words: list[str], message: str) -> None:
    assert message in refused("--dataset", str(table), *words)


def test_models_and_data_of_different_tasks(
    run: Path, table: Path, finished_run: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refuse(capsys, "evaluate", str(finished_run), "--dataset", str(table), "--use_cpu")
    assert line.startswith("The model gives one class for each image, and images of ")
    line = refuse(capsys, "evaluate", str(run), "--dataset", str(image_folder), "--use_cpu")
    assert line.startswith("The model gives any number of classes for each image, and images of ")
    line = refuse(capsys, "predict", str(finished_run), str(table.parent / "0.png"), "--threshold", "0.5")
    assert line == "--threshold is for models of several labels per image, and this one gives one class."


def test_cross_validation_fits_thresholds_of_all_folds_which_its_ensemble_has(table: Path, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, num_train_epochs=3))
    result = kfold(recipe, folds=2, dataset=str(table), output_dir=tmp_path / "folds")
    assert repr(result).startswith("KFoldResult of 2 folds") and "mean mAP " in repr(result)
    assert result.mean["mAP"] == pytest.approx(np.mean([figures["mAP"] for figures in result.folds]))
    own = json.loads((tmp_path / "folds" / "fold-1" / "metrics.json").read_text())["metrics"]
    assert result.folds[0]["mAP"] == pytest.approx(own["eval_mAP"], abs=1e-6)
    assert result.folds[0]["loss"] == pytest.approx(own["eval_loss"], abs=1e-5)
    with open(tmp_path / "folds" / "out_of_fold.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 72 and {row["fold"] for row in rows} == {"1", "2"}
    assert json.loads((tmp_path / "folds" / "ensemble.json").read_text())["thresholds"] == result.thresholds
    for row in rows:
        shown = [name for name, least in zip(NAMES, result.thresholds, strict=True) if float(row[f"p_{name}"]) >= least]
        assert row["predictions"] == "|".join(shown)
    evaluated = evaluate(tmp_path / "folds", dataset=str(table), use_cpu=True, disable_tqdm=True)
    for name in ("mAP", "micro_f1", "macro_f1", "loss"):
        assert evaluated.metrics[name] == pytest.approx(result.test[name], abs=1e-5)
    image = table.parent / "0.png"
    members = [dict(predict(tmp_path / "folds" / f"fold-{number}", image, top_k=3)[0].classes) for number in (1, 2)]
    for name, score in predict(tmp_path / "folds", image, top_k=3)[0].classes:
        assert score == pytest.approx(np.mean([member[name] for member in members]), abs=1e-6)
