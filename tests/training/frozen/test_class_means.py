"""The head of the nearest class mean: distances of its own, and runs of no epoch that end with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.neighbors import NearestCentroid
from transformers import ResNetConfig, ResNetForImageClassification, pipeline

from hf_finetune import finetune
from hf_finetune.errors import UserError
from hf_finetune.training.assembly import assemble
from hf_finetune.training.choice import choose_recipe
from hf_finetune.training.frozen.class_means import fit_class_means
from hf_finetune.training.given import Given
from hf_finetune.training.plan import plan_run
from tests.helpers.tiny import TINY_RESNET, write_recipe


def examples(counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return features around a far offset, float32, and labels: as many of each class."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    features = generator.normal(size=(len(labels), 6)) + 1.2 * generator.normal(size=(len(counts), 6))[labels] + 30
    return features.astype(np.float32), labels


def test_it_gives_the_class_of_the_nearest_mean():
    features, labels = examples((9, 4, 30))
    weight, bias, _ = fit_class_means(features, labels, 3)
    assert weight.dtype == bias.dtype == np.float32 and weight.shape == (3, 6)
    expected = NearestCentroid().fit(features.astype(np.float64), labels).predict(features)
    np.testing.assert_array_equal((features @ weight.T + bias).argmax(1), expected)


def test_its_figures_leave_each_image_out():
    features, labels = examples((9, 4, 30, 1))
    weight, _, accuracy = fit_class_means(features, labels, 4)
    squares = np.zeros((len(labels), 4))
    for row in range(len(labels)):
        others = np.arange(len(labels)) != row
        for class_id in range(4):
            members = others & (labels == class_id)
            if members.any():
                squares[row, class_id] = np.square(features[row] - features[members].mean(0, dtype=np.float64)).sum()
    counted = labels < 3  # the last class has no mean without its only image
    assert accuracy == np.mean(squares[counted].argmin(1) == labels[counted])

    def loss(scale: float) -> float:
        return -log_softmax(-scale * squares[counted] / 2, axis=1)[np.arange(counted.sum()), labels[counted]].mean()

    mean = features.mean(0, dtype=np.float64)
    means = np.stack([features[labels == class_id].mean(0, dtype=np.float64) for class_id in range(4)])
    scale = float(weight[0] @ (means[0] - mean) / np.square(means[0] - mean).sum())
    assert loss(scale) <= min(loss(scale * 0.98), loss(scale * 1.02))


def test_classes_of_one_image_or_none():
    features, labels = examples((1, 1, 1))
    weight, bias, accuracy = fit_class_means(features, labels + np.array([0, 0, 1]), 5)
    assert accuracy is None and np.isfinite(weight).all() and np.isfinite(bias).all()
    logits = torch.tensor(features @ weight.T + bias)
    assert logits.argmax(1).tolist() == [0, 1, 3]
    assert logits.softmax(1)[:, [2, 4]].max() < 1e-3


@pytest.mark.parametrize(
    ("weighing", "message"),
    [
        ({"class_weights": {"red": 2}, "sampling": "weighted"}, "class_weights and sampling would .*, or leave them"),
        (
            {"sampling": "balanced"},
            "sampling would have no effect: with head_init class_means and no epoch all training",
        ),
        ({"logit_adjustment": 1}, "logit_adjustment would have no effect: .*; use head_init=.probe., or leave it out"),
    ],
)
def test_what_weighs_images_needs_an_epoch(weighing: Any, message: str, image_folder: Path, tmp_path: Path):
    """The means count images alike; the epochs after them and a probe do not."""
    recipe = str(write_recipe(tmp_path, dataset=str(image_folder)))
    settings: Any = {"output_dir": str(tmp_path / "run"), "head_init": "class_means", **weighing}
    with pytest.raises(UserError, match=message):
        finetune(recipe, num_train_epochs=0, **settings)
    assert not (tmp_path / "run").exists()
    for allowed in ({}, {"head_init": "probe", "num_train_epochs": 0}):
        assemble(plan_run(choose_recipe(recipe, {**settings, **allowed}, str), Given()))


@pytest.mark.parametrize("weighing", [{"class_weights": "balanced"}, {"sampling": "sqrt"}, {"logit_adjustment": 1}])
def test_nor_do_weights_matter_where_a_head_is_kept_and_not_trained(
    weighing: Any, image_folder: Path, finished_run: Path, tmp_path: Path, datasets_cache: Path
):
    recipe = str(write_recipe(tmp_path, dataset=str(image_folder), model_type=None, model_config=None))
    settings: Any = {"model_name_or_path": str(finished_run), "output_dir": str(tmp_path / "run"), **weighing}
    plan = plan_run(choose_recipe(recipe, {**settings, "num_train_epochs": 0}, str), Given())
    with pytest.raises(UserError, match="would have no effect: num_train_epochs is 0 and the checkpoint's own head is"):
        assemble(plan)
    for allowed in ({}, {"num_train_epochs": 0, "logit_adjustment": 1, "logit_adjustment_at": "end"}):
        kept = settings if not allowed else {key: settings[key] for key in settings if key not in weighing}
        assemble(plan_run(choose_recipe(recipe, {**kept, **allowed}, str), Given()))


@pytest.mark.slow
def test_a_run_without_epochs_ends_with_it(image_folder: Path, tmp_path: Path, datasets_cache: Any):
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=7)).save_pretrained(tmp_path / "checkpoint")
    recipe = write_recipe(tmp_path, model_type=None, model_config=None)
    settings: Any = {"model_name_or_path": str(tmp_path / "checkpoint"), "num_train_epochs": 0}
    output = tmp_path / "run"
    settings["dataset"] = str(image_folder)
    result = finetune(str(recipe), output_dir=str(output), head_init="class_means", **settings)
    assert result.metrics["test_accuracy"] > 0.8  # by the means of colours
    again = pipeline("image-classification", str(output))
    files = sorted((image_folder / "test").glob("*/*.png"))
    answers = [answer[0]["label"] for answer in again([str(file) for file in files])]
    assert np.mean([file.parent.name == answer for file, answer in zip(files, answers, strict=True)]) == pytest.approx(
        result.metrics["test_accuracy"]
    )
    with pytest.raises(UserError, match="num_train_epochs is 0, and the head starts at random; use head_init=.probe"):
        finetune(str(recipe), output_dir=str(tmp_path / "other"), **settings)
