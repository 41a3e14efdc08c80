"""Training on kept features: the same head as without them, computed once, and a whole model at the end."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    pipeline,
    set_seed,
)

from hf_finetune import finetune
from hf_finetune.models.freeze import freeze_modules
from hf_finetune.training.frozen.features import random_transforms, train_on_features, train_on_images
from tests.helpers.launched import run_in
from tests.helpers.networks import CLASSES, make_model, norm_and_head, two_heads
from tests.helpers.processes import REPOSITORY
from tests.helpers.tiny import tiny_timm, write_recipe
from tests.helpers.trainers import make_trainer

FROZEN = {"freeze": "backbone", "train_transforms": None}


def make(family: str) -> PreTrainedModel:
    """A tiny network whose head is a flattening and a layer, or one layer, or dropout and a layer."""
    set_seed(0)
    if family == "timm":
        model = tiny_timm(CLASSES)
    elif family == "mobilenet_v2":
        config = MobileNetV2Config(depth_multiplier=0.1, classifier_dropout_prob=0.5, num_labels=CLASSES)
        model = MobileNetV2ForImageClassification(config)
    else:
        model = make_model(family)
    # Without statistics of its own, a deep network at its random start leaves nothing of an image.
    with torch.no_grad():
        for _ in range(20):
            model.train()(pixel_values=torch.randn(8, 3, 16, 16))
    return model


@pytest.mark.parametrize("family", ["resnet", "vit", "timm", "mobilenet_v2"])
def test_the_head_comes_out_as_without_kept_features(tmp_path, datasets_cache, capsys, family):
    heads = []
    for name in ("images", "computed", "read"):
        model = make(family)
        freeze_modules(model, ["backbone"])
        trainer = make_trainer(tmp_path / name, model, num_train_epochs=2, label_smoothing_factor=0.1)
        splits = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
        if name != "images":
            assert train_on_features(trainer, splits, []) is not splits
        trainer.train()
        loss = trainer.evaluate()["eval_loss"]
        train_on_images(model)
        assert model(pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape == (1, CLASSES)
        heads.append((model.state_dict(), loss))
        if name == "computed":
            kept = np.concatenate([np.load(path) for path in (datasets_cache / "hf_finetune/features").iterdir()])
            assert kept.shape[0] == 84 and kept.std(axis=0).max() > 1e-3 * kept.max()
    printed = capsys.readouterr().out
    assert "Features of train: 64 images in" in printed and "Features of train: read from" in printed
    assert len(list((datasets_cache / "hf_finetune/features").iterdir())) == 2
    (expected, expected_loss), *others = heads
    for state, loss in others:
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
        assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert all(torch.equal(others[0][0][name], others[1][0][name]) for name in expected)


def functional_dropout() -> PreTrainedModel:
    return tiny_timm(CLASSES, model_args={"drop_rate": 0.5})


@pytest.mark.parametrize(
    ("make_network", "transforms", "reason"),
    [
        (lambda: make("resnet"), ["RandomHorizontalFlip"], "train_transforms are random (RandomHorizontalFlip); with"),
        (two_heads, [], "the head of DeiTForImageClassificationWithTeacher is not one module"),
        (norm_and_head, [], "the head of PoolFormerForImageClassification is not one module"),
        (functional_dropout, [], "does more after its backbone, or at random, than its head"),
    ],
)
def test_where_features_cannot_be_kept_the_frozen_network_runs(
    tmp_path, datasets_cache, capsys, make_network, transforms, reason
):
    model = make_network()
    freeze_modules(model, ["backbone"])
    trainer = make_trainer(tmp_path, model, max_steps=1)
    splits = {"train": trainer.train_dataset}
    assert train_on_features(trainer, splits, transforms) is splits
    printed = capsys.readouterr().out
    assert "Note: features are not kept: " in printed and reason in printed
    assert "forward" not in vars(model) and not datasets_cache.exists()
    trainer.train()


def test_what_counts_as_random():
    items = ["Grayscale", {"Resize": {"size": 8}}, {"ColorJitter": {"hue": 0.1}}, {"Pad": {"padding": 1}}, "AugMix"]
    assert random_transforms(items) == ["ColorJitter", "AugMix"]


def test_a_run_computes_them_once_and_the_result_is_a_whole_model(
    image_folder, tmp_path, datasets_cache, images_seen, capsys
):
    recipe = str(write_recipe(tmp_path, **FROZEN, head_init="probe", save_total_limit=3))
    settings = {"dataset": str(image_folder)}
    result = finetune(recipe, output_dir=str(tmp_path / "first"), **settings)
    printed = capsys.readouterr().out
    assert "Frozen: backbone, 6,056 of 6,107 parameters." in printed
    assert "training images are prepared as in evaluation" in printed
    assert "Features of test: 24 images" in printed and "Head: probed" in printed
    # 65 + 7 + 24 images once, and two at a time when the run is sanity check.
    assert sum(images_seen) == 96 + 8

    classifier = pipeline("image-classification", model=str(tmp_path / "first"), device="cpu")
    images = sorted((image_folder / "test").rglob("*.png"))
    answers = classifier([str(image) for image in images])
    truth = [
        next(entry["score"] for entry in answer if entry["label"] == image.parent.name)
        for answer, image in zip(answers, images, strict=True)
    ]
    assert -np.log(truth).mean() == pytest.approx(result.metrics["test_loss"], abs=1e-4)
    assert "forward" not in vars(result.model)

    # Interrupted after its second epoch: it goes on with the same features, and its head is not probed again.
    shutil.copytree(tmp_path / "first", tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").unlink()
    newest = max((tmp_path / "cut").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(newest)
    images_seen.clear()
    finetune(recipe, output_dir=str(tmp_path / "cut"), **settings)
    assert sum(images_seen) <= 10  # the sanity check's
    printed = capsys.readouterr().out
    assert "it resumes from checkpoint-10" in printed and "Features of test: read from" in printed
    assert "Head:" not in printed
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(("head_init", "epochs", "said"), [("probe", 1, "Head: probed"), ("class_means", 0, "Head: ")])
def test_two_processes(image_folder, tmp_path, head_init, epochs, said):
    """The first computes the features and the head, the other reads them and is given it, also without an epoch."""
    recipe = write_recipe(tmp_path, **FROZEN, head_init=head_init, learning_rate=0.01, num_train_epochs=epochs)
    words = ["--recipe", recipe, "--dataset", image_folder, "--output_dir", tmp_path / "output"]
    script = REPOSITORY / "scripts" / "run_finetune.py"
    completed = run_in(2, script, *words, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert completed.returncode == 0, completed.stderr[-2000:]
    assert completed.stdout.count("Features of train: 65 images") == completed.stdout.count(said) == 1
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())["metrics"]
    assert metrics["test_samples"] == 24 and metrics["test_accuracy"] > 0.9


def test_two_processes_keep_the_same_neighbors(image_folder, tmp_path):
    """Each of them fills its own head, because nothing is trained that would be sent to the others."""
    recipe = write_recipe(tmp_path, **FROZEN, head="knn", num_train_epochs=0, lr_milestones=None)
    alone = finetune(str(recipe), dataset=str(image_folder), output_dir=str(tmp_path / "alone"))
    words = ["--recipe", recipe, "--dataset", image_folder, "--output_dir", tmp_path / "shared"]
    completed = run_in(2, REPOSITORY / "scripts" / "run_finetune.py", *words)
    assert completed.returncode == 0, completed.stderr[-2000:]
    assert completed.stdout.count("Head: 65 images are kept") == 1
    kept, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("shared", "alone"))
    assert expected["head.features"].shape[0] == 65
    torch.testing.assert_close(kept, expected)
    metrics = json.loads((tmp_path / "shared" / "metrics.json").read_text())["metrics"]
    assert metrics["test_accuracy"] == alone.metrics["test_accuracy"] > 0.6
    assert metrics["test_loss"] == pytest.approx(alone.metrics["test_loss"], rel=1e-5)
