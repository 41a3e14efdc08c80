"""`evaluate` counts what `pipeline` answers on the raw images: made ones always, real ones where they are at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import load_dataset
from transformers import pipeline

from hf_finetune import UserError, evaluate, evaluate_model, finetune, predict
from hf_finetune.cli.main import main
from hf_finetune.evaluation import plots
from hf_finetune.evaluation.intervals import wilson_interval
from hf_finetune.jobs.evaluate import EvaluationResult
from hf_finetune.jobs.predict import predict_files
from hf_finetune.jobs.prediction_settings import PredictionSettings
from tests.helpers.tiny import write_recipe


def assert_parity(result: EvaluationResult, model: str, images: list, names: list[str]) -> None:
    """Every image's class, and the probability of its true class to 1e-4, are the pipeline's."""
    classifier = pipeline("image-classification", model=model, device="cpu")
    answers = classifier(images, top_k=len(names))
    assert len(answers) == len(result.predictions)
    assert [answer[0]["label"] for answer in answers] == [names[number] for number in result.predictions]
    scores = [
        next(entry["score"] for entry in answer if entry["label"] == names[label])
        for answer, label in zip(answers, result.labels, strict=True)
    ]
    np.testing.assert_allclose(np.exp(-result.losses.astype(np.float64)), scores, atol=1e-4)


def test_figures_and_parity_on_a_folder(finished_run, image_folder):
    result = evaluate_model(str(finished_run), dataset=str(image_folder), use_cpu=True, disable_tqdm=True)
    images = [str(path) for path in sorted((image_folder / "test").rglob("*.png"))]
    assert result.metrics["samples"] == 24
    right = int((result.predictions == result.labels).sum())
    assert result.intervals["accuracy"] == wilson_interval(right, 24) and "95 % interval" in result.report
    written = result.as_mapping()["metrics"]
    assert written["accuracy_interval"] == list(result.intervals["accuracy"]) and "macro_f1_interval" in written
    assert result.metrics["accuracy"] == pytest.approx((result.predictions == result.labels).mean())
    assert_parity(result, str(finished_run), images, ["blue", "green", "red"])


def test_the_model_of_a_run_gets_images_prepared_as_in_its_training(image_folder, tmp_path, monkeypatch):
    """From any working directory, and as a start of the next run: its card does not say where the folder lies."""
    data, figures = str(image_folder), {"image_mean": [200, 30, 90], "image_std": [20, 100, 60]}
    monkeypatch.chdir(tmp_path)
    trained = finetune(write_recipe(tmp_path, num_train_epochs=1), dataset=data, output_dir="run", **figures)
    monkeypatch.chdir("/")
    result = evaluate(trained.model, dataset=data, use_cpu=True, disable_tqdm=True)
    assert result.metrics["loss"] == pytest.approx(trained.metrics["test_loss"], rel=1e-5)
    by_object, by_folder = (
        predict(model, sorted((image_folder / "test").rglob("*.png"))) for model in (trained.model, tmp_path / "run")
    )
    assert [dict(own.classes) for own in by_object] == [pytest.approx(dict(own.classes)) for own in by_folder]
    recipe = write_recipe(tmp_path, num_train_epochs=1, model_type=None, model_config=None, **dict.fromkeys(figures))
    again = finetune(recipe, model=trained.model, dataset=data, output_dir=tmp_path / "again")
    assert again.image_processor.image_mean == trained.image_processor.image_mean
    card = (tmp_path / "again" / "README.md").read_text()
    assert "the weights of" in card and str(tmp_path) not in card


def test_only_the_split_that_is_evaluated_is_kept_decoded(finished_run, image_folder, datasets_cache):
    evaluate_model(str(finished_run), dataset=str(image_folder), use_cpu=True, disable_tqdm=True)
    (kept,) = (datasets_cache / "hf_finetune").glob("decoded-*.npy")
    assert len(np.load(kept, mmap_mode="r")) == 24  # of test; train has 72


def test_pages_that_are_not_used_are_counted(finished_run, image_folder, tmp_path, capsys):
    shutil.copytree(image_folder / "test", tmp_path / "test")
    page = PIL.Image.new("RGB", (16, 16), (200, 50, 40))
    page.save(tmp_path / "test" / "red" / "many.tif", save_all=True, append_images=[page])
    capsys.readouterr()
    assert main(["evaluate", str(finished_run), "--dataset", str(tmp_path), "--use_cpu", "--disable_tqdm"]) == 0
    assert "1 of 25 images has more than one page or frame; the first is used." in capsys.readouterr().out


def test_the_command_shows_its_table_at_any_level_and_the_function_shows_nothing(
    finished_run, image_folder, tmp_path, capsys
):
    flags = ["--dataset", str(image_folder), "--use_cpu", "--disable_tqdm"]
    assert main(["evaluate", str(finished_run), *flags, "--log_level", "warning"]) == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "macro" in printed and "Data:" not in printed
    assert main(["evaluate", str(finished_run), *flags, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["metrics"]["samples"] == 24 and "Data:" in shown.err
    result = evaluate(finished_run, dataset=str(image_folder), use_cpu=True, disable_tqdm=True)
    assert capsys.readouterr().out == "" and result.report in printed


def test_the_confusion_matrix_says_what_it_is_of(finished_run, image_folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "plot_confusion_matrix", lambda *arguments: drawn.append(arguments[3:]))
    output = tmp_path / "figures.json"
    evaluate(finished_run, dataset=str(image_folder), output=output, use_cpu=True, disable_tqdm=True)
    (title, split), *_ = drawn
    assert title == f".../{finished_run.name} on .../{image_folder.name}" and split == "test"


def test_classes_are_matched_by_name_not_by_order(finished_run, image_folder, tmp_path):
    """Only two of the model's classes are there, so the dataset's own ids differ from the model's."""
    for label in ("green", "red"):
        (tmp_path / "test" / label).mkdir(parents=True)
        for image in (image_folder / "test" / label).iterdir():
            (tmp_path / "test" / label / image.name).write_bytes(image.read_bytes())
    result = evaluate_model(str(finished_run), dataset=str(tmp_path), use_cpu=True, disable_tqdm=True)
    assert set(result.labels.tolist()) == {1, 2}
    assert result.metrics["accuracy"] > 0.9 and result.metrics["samples"] == 16


def test_a_class_that_the_model_does_not_know_is_named(finished_run, tmp_path):
    for label in ("green", "mauve"):
        (tmp_path / "test" / label).mkdir(parents=True)
        PIL.Image.new("RGB", (16, 16)).save(tmp_path / "test" / label / "1.png")
    with pytest.raises(UserError, match="does not know 1 of the dataset's classes: mauve. It knows blue, green, red"):
        evaluate_model(str(finished_run), dataset=str(tmp_path), use_cpu=True, disable_tqdm=True)


def renamed(run: Path, folder: Path, names: list[str]) -> Path:
    """Copies a run's model and gives its classes other names."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: number for number, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_classes_without_names_are_matched_by_index(finished_run, image_folder, tmp_path):
    model = renamed(finished_run, tmp_path / "model", ["LABEL_0", "LABEL_1", "LABEL_2"])
    settings = {"dataset": str(image_folder), "use_cpu": True, "disable_tqdm": True}
    with pytest.raises(UserError, match="labels_by_index"):
        evaluate(model, **settings)
    result = evaluate(model, labels_by_index=True, **settings)
    assert result.metrics["accuracy"] == evaluate(finished_run, **settings).metrics["accuracy"]
    assert result.label_names == ["blue", "green", "red"]


def test_a_model_with_one_name_for_two_classes(finished_run, image_folder, tmp_path, capsys):
    model = renamed(finished_run, tmp_path / "model", ["blue", "red", "red"])
    settings = {"dataset": str(image_folder), "use_cpu": True, "disable_tqdm": True}
    with pytest.raises(UserError, match=r"The model has 2 classes of the name red \(1, 2\)"):
        evaluate(model, **settings)
    assert evaluate(model, labels_by_index=True, **settings).metrics["accuracy"] > 0.9
    image = next((image_folder / "test").rglob("*.png"))
    predict_files(str(model), [str(image)], PredictionSettings(1, 1), "json", tmp_path / "answer.json")
    assert "several classes of the model have one name: red (1 and 2)" in capsys.readouterr().err


def test_parity_of_the_embedded_checkpoint_on_real_cifar10(shared):
    copy = shared / "hub" / "datasets" / "uoft-cs" / "cifar10"
    settings = {"dataset": "cifar10", "dataset_path": str(copy), "max_eval_samples": 300}
    result = evaluate_model("resnet_small_cifar10", **settings, use_cpu=True, disable_tqdm=True)
    check_real_parity(result, "resnet_small_cifar10", copy, "img", settings)
    assert result.metrics["accuracy"] > 0.85


def test_parity_of_lenet5_on_real_mnist(shared, tmp_path):
    copy = shared / "hub" / "datasets" / "ylecun" / "mnist"
    settings = {"dataset": "mnist", "dataset_path": str(copy), "max_eval_samples": 300}
    output = str(tmp_path / "output")
    finetune(
        "lenet5_mnist", **settings, output_dir=output, max_train_samples=6000, num_train_epochs=1, learning_rate=0.05,
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    result = evaluate_model(output, **settings, use_cpu=True, disable_tqdm=True)
    assert result.metrics["accuracy"] > 0.8
    check_real_parity(result, output, copy, "image", settings)


def check_real_parity(
    result: EvaluationResult, model: str, copy: Path, column: str, settings: dict[str, object]
) -> None:
    from hf_finetune.config.checkpoint_names import resolve_checkpoint
    from hf_finetune.config.data import DataArguments
    from hf_finetune.data.build import load_image_dataset

    test = load_image_dataset(DataArguments(**settings, validation_fraction=0), seed=42).splits["test"]
    raw = load_dataset(str(copy), split="test").select(test.with_format(None)["sample_index"])
    names = raw.features["label"].names
    assert len(raw) == 300 and [names[label] for label in raw["label"]] == [names[label] for label in result.labels]
    assert_parity(result, resolve_checkpoint(model), list(raw[column]), names)
