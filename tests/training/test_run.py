"""The whole road on real files: what a run leaves, that the pipeline agrees with it, and that it can be interrupted."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, pipeline

from hf_finetune import UserError, finetune
from hf_finetune.cli.main import main
from tests.helpers.tiny import TINY_RESNET, write_recipe


def test_the_result_is_a_whole_model_folder(finished_run):
    names = {path.name for path in finished_run.iterdir() if path.is_file()}
    assert names == {
        "README.md", "augmented.jpg", "config.json", "confusion_matrix.png", "history.csv", "metrics.json",
        "model.safetensors", "predictions.csv", "preprocessor_config.json", "recipe.yaml", "reliability_diagram.png",
        "report.html", "training_curve.png",
    }  # fmt: skip
    config = json.loads((finished_run / "config.json").read_text())
    assert config["id2label"] == {"0": "blue", "1": "green", "2": "red"}
    assert config.get("problem_type") in (None, "single_label_classification")


def test_the_figures_say_which_split_they_are_from(finished_run):
    content = json.loads((finished_run / "metrics.json").read_text())
    assert content["reported_split"] == "test" and content["validation_chose_checkpoint"] is True
    assert content["metrics"]["test_samples"] == 24 and content["metrics"]["test_accuracy"] > 0.9
    low, high = content["metrics"]["test_accuracy_interval"]
    assert low < content["metrics"]["test_accuracy"] <= high
    assert [row["support"] for row in content["per_class"]] == [8, 8, 8]
    assert content["per_class"][0]["recall_interval"][0] < content["per_class"][0]["recall"]
    assert "test_top5_accuracy" not in content["metrics"]  # three classes only


def test_the_pipeline_gives_what_evaluation_counted(finished_run, image_folder):
    classifier = pipeline("image-classification", model=str(finished_run), device="cpu")
    images = sorted((image_folder / "test").rglob("*.png"))
    answers = classifier([str(image) for image in images], top_k=3)
    right = [answer[0]["label"] == image.parent.name for answer, image in zip(answers, images, strict=True)]
    metrics = json.loads((finished_run / "metrics.json").read_text())["metrics"]
    assert np.mean(right) == pytest.approx(metrics["test_accuracy"])
    truth = [
        next(entry["score"] for entry in answer if entry["label"] == image.parent.name)
        for answer, image in zip(answers, images, strict=True)
    ]
    assert -np.log(truth).mean() == pytest.approx(metrics["test_loss"], abs=1e-4)


def test_a_finished_run_is_never_written_over_unasked(finished_run, image_folder, tmp_path):
    weights = (finished_run / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds the results of a finished run"):
        finetune(str(write_recipe(tmp_path)), dataset=str(image_folder), output_dir=str(finished_run))
    assert (finished_run / "model.safetensors").read_bytes() == weights


def test_one_seed_gives_one_result_and_another_seed_another(image_folder, tmp_path):
    recipe = str(write_recipe(tmp_path, num_train_epochs=1))
    for name, seed in (("first", 1), ("second", 1), ("third", 2)):
        finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / name), seed=seed)
    first, second, third = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second", "third"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.1.weight"], third["classifier.1.weight"])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_same_command_goes_on_where_it_was_interrupted(image_folder, tmp_path, workers, capsys):
    """A run whose last epoch is lost, and the same command again, end as the undisturbed run did."""
    words = ["train", "--recipe", str(write_recipe(tmp_path)), "--dataset", str(image_folder)]
    words += ["--save_total_limit", "null", "--dataloader_num_workers", str(workers)]
    assert main([*words, "--output_dir", str(tmp_path / "whole")]) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").unlink()
    newest = max((tmp_path / "cut").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (newest / "trainer_state.json").write_text('{"global_step"')  # a save that was cut short
    capsys.readouterr()
    assert main([*words, "--output_dir", str(tmp_path / "cut")]) == 0
    assert "An interrupted run is here; it resumes from checkpoint-" in capsys.readouterr().out
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text())["metrics"] for name in ("whole", "cut")]
    assert metrics[0]["test_loss"] == metrics[1]["test_loss"]


def test_a_pretrained_checkpoint_keeps_its_backbone_and_gets_a_new_head(image_folder, tmp_path, capsys):
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=1000)).save_pretrained(tmp_path / "checkpoint")
    recipe = write_recipe(tmp_path, model_type=None, model_config=None, model_name_or_path=str(tmp_path / "checkpoint"))
    result = finetune(
        str(recipe),
        dataset=str(image_folder),
        output_dir=str(tmp_path / "output"),
        num_train_epochs=1,
        learning_rate=0,
    )
    assert "tensors reused, 2 of the head initialized for 3 classes" in capsys.readouterr().out
    before, after = (
        load_file(tmp_path / "checkpoint/model.safetensors"),
        load_file(tmp_path / "output/model.safetensors"),
    )
    kernel = "resnet.embedder.embedder.convolution.weight"
    assert torch.equal(before[kernel], after[kernel])
    assert after["classifier.1.weight"].shape == (3, 16)
    assert result.metrics["test_samples"] == 24


def test_images_of_mixed_size_train_and_agree_with_the_pipeline(tmp_path):
    """Landscape and portrait images go through resize and centre crop, in the worker and in the pipeline alike."""
    import PIL.Image

    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for label, colour in {"dark": 60, "light": 190}.items():
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                shape = (*generator.integers(20, 60, 2), 3)
                pixels = np.clip(colour + generator.normal(0, 40, shape), 0, 255).astype(np.uint8)
                PIL.Image.fromarray(pixels).save(folder / f"{number}.jpg")
    recipe = write_recipe(tmp_path, train_transforms=None, crop_pct=0.8)
    output = tmp_path / "output"
    result = finetune(str(recipe), dataset=str(tmp_path / "images"), output_dir=str(output))
    classifier = pipeline("image-classification", model=str(output), device="cpu")
    losses = []
    for image in sorted((tmp_path / "images/test").rglob("*.jpg")):
        answer = {entry["label"]: entry["score"] for entry in classifier(str(image))}
        losses.append(-np.log(answer[image.parent.name]))
    assert np.mean(losses) == pytest.approx(result.metrics["test_loss"], abs=1e-4)
