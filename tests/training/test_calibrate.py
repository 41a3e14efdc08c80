"""`calibrate`: the result's scores are divided by one temperature, once, and no prediction changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher, pipeline

from hf_finetune import UserError, evaluate, export, finetune, predict
from hf_finetune.config.arguments import argument_fields
from tests.helpers.tiny import TINY_RECIPE

HEAD = ("classifier.1.weight", "classifier.1.bias")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of coloured images of which a quarter is in the wrong folder, so that scores are too high."""
    folder, random = tmp_path_factory.mktemp("noisy"), np.random.default_rng(0)
    colours = {"blue": (30, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}
    for split, count in (("train", 40), ("validation", 40), ("test", 20)):
        for label in colours:
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                seen = random.choice(list(colours)) if random.random() < 0.4 else label
                pixels = np.clip(np.array(colours[seen]) + random.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
                PIL.Image.fromarray(pixels).save(folder / split / label / f"{number:02d}.png")
    return folder


def run(noisy: Path, folder: Path, **settings):
    return finetune({**TINY_RECIPE, "num_train_epochs": 8}, dataset=str(noisy), output_dir=str(folder), **settings)


@pytest.fixture(scope="module")
def results(noisy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return run(noisy, folder / "plain"), run(noisy, folder / "calibrated", calibrate=True)


def test_the_head_is_divided_by_the_temperature_and_nothing_else_changes(results):
    plain, calibrated = (load_file(result.output_dir / "model.safetensors") for result in results)
    temperature = results[1].metrics["train_temperature"]
    assert temperature != 1 and "train_temperature" not in results[0].metrics
    for name, tensor in plain.items():
        expected = (tensor.double() / temperature).float() if name in HEAD else tensor
        assert torch.equal(calibrated[name], expected), name
    plain_metrics, metrics = (result.metrics for result in results)
    for name in ("test_accuracy", "test_macro_f1", "eval_accuracy"):
        assert metrics[name] == plain_metrics[name]
    assert metrics["eval_loss"] < plain_metrics["eval_loss"]
    card = (results[1].output_dir / "README.md").read_text()
    assert f"divided by a temperature of {temperature:.3f}" in card
    assert "temperature" not in (results[0].output_dir / "README.md").read_text().split("## How to use")[0]


def test_a_pipeline_and_onnx_give_the_calibrated_scores(results, noisy, tmp_path):
    result = results[1]
    images = sorted((noisy / "test").rglob("*.png"))
    evaluation = evaluate(result.output_dir, dataset=noisy, use_cpu=True, disable_tqdm=True)
    answers = pipeline("image-classification", model=str(result.output_dir), device="cpu")([str(p) for p in images])
    scores = [answer[0]["score"] for answer in answers]
    np.testing.assert_allclose(scores, evaluation.confidences, atol=1e-4)
    assert evaluation.metrics["ece"] == pytest.approx(result.metrics["test_ece"], abs=1e-6)
    pytest.importorskip("onnx")
    file = export(result.output_dir, output=tmp_path / "model.onnx")
    np.testing.assert_allclose([answer.score for answer in predict(file, images)], scores, atol=1e-4)


def test_a_resumed_run_calibrates_once_and_an_average_of_weights_too(noisy, tmp_path):
    settings = {"calibrate": True, "ema_decay": 0.9, "save_total_limit": None}
    whole = run(noisy, tmp_path / "whole", **settings)
    assert whole.metrics["train_temperature"] != 1
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").unlink()  # stopped while it wrote its result: the calibrated weights are there
    cut = run(noisy, tmp_path / "cut", **settings)
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", tmp_path / "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert cut.metrics["train_temperature"] == whole.metrics["train_temperature"]


def test_features_of_a_frozen_backbone_are_calibrated(noisy, tmp_path):
    settings = {"freeze": "backbone", "train_transforms": None, "num_train_epochs": 2}
    result = run(noisy, tmp_path / "run", calibrate=True, **settings)
    evaluation = evaluate(tmp_path / "run", dataset=noisy, split="validation", use_cpu=True, disable_tqdm=True)
    assert result.metrics["train_temperature"] != 1
    assert evaluation.metrics["loss"] == pytest.approx(result.metrics["eval_loss"], abs=1e-5)


def test_validation_images_that_are_all_correct_say_nothing(image_folder, tmp_path, logged):
    result = run(image_folder, tmp_path / "run", calibrate=True)
    assert result.metrics["eval_accuracy"] == 1 and result.metrics["train_temperature"] == 1
    assert "Note: the scores are not calibrated, because every validation image is classified correctly." in logged


def test_what_cannot_be_calibrated_is_told_before_the_first_step(image_folder, tmp_path):
    with pytest.raises(
        UserError, match=r"^calibrate needs a validation split, and there is none; use validation_fraction"
    ):
        run(image_folder, tmp_path / "run", calibrate=True, validation_fraction=0)
    config = DeiTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16, patch_size=8,
        id2label={0: "blue", 1: "green", 2: "red"},
    )  # fmt: skip
    recipe = {key: value for key, value in TINY_RECIPE.items() if not key.startswith("model_")}
    with pytest.raises(
        UserError, match=r"^calibrate needs a head whose logits are the output of one linear layer, which"
    ):
        finetune(
            recipe,
            model=DeiTForImageClassificationWithTeacher(config),
            dataset=str(image_folder),
            output_dir=str(tmp_path / "run"),
            calibrate=True,
        )
    assert not (tmp_path / "run/recipe.yaml").exists()


def test_it_is_off_unless_asked_for():
    assert argument_fields()["calibrate"].default is False
