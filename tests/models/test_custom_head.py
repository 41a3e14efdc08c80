"""Heads of an MLP and of cosines: on every family, saved and loaded, trained with ArcFace, refused where needed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional
from transformers import AutoModelForImageClassification, pipeline

from hf_finetune import evaluate, export, finetune
from hf_finetune.errors import UserError
from hf_finetune.losses import COSINE_SCALE
from hf_finetune.models.choose_head import with_chosen_head
from hf_finetune.models.custom_head import SCALE, CosineHead, NeighborHead
from hf_finetune.models.head import head_parameter_names
from hf_finetune.models.load import LoadedModel
from hf_finetune.models.source import Architecture
from tests.helpers.families import make_family
from tests.helpers.tiny import TINY_RECIPE, tiny_timm

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def with_head(model: Any, head: str, new: frozenset[str] = frozenset()) -> LoadedModel:
    return with_chosen_head(LoadedModel(model, new, "Loaded."), head, (32, 32))


def check_saved(loaded: LoadedModel, folder: Path) -> None:
    """Check that the head alone is new, and that what is loaded gives the same."""
    model = loaded.model.eval()
    assert loaded.initialized == {f"head.{name}" for name in model.head.state_dict()}
    assert head_parameter_names(model) == {f"head.{name}" for name, _ in model.head.named_parameters()}
    model.save_pretrained(folder)
    again = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert torch.equal(again(IMAGES).logits, model(IMAGES).logits)


@pytest.mark.parametrize("family", ["vit", "deit", "beit", "resnet", "levit", "swin", "convnext", "mobilevit", "clip"])
def test_every_family_takes_one(family, tmp_path):
    check_saved(with_head(make_family(family), "mlp"), tmp_path)


def test_a_network_of_timm_takes_one(tmp_path):
    check_saved(with_head(tiny_timm(3), "cosine"), tmp_path)


def test_cosines_do_not_know_lengths():
    torch.manual_seed(0)
    head, features = CosineHead(5, 3), torch.randn(4, 5)
    expected = SCALE * functional.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(features), expected)
    torch.testing.assert_close(head(7 * features), expected)
    assert SCALE == COSINE_SCALE


def test_votes_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    kept, labels = torch.randn(90, 5, generator=generator), torch.randint(0, 4, (90,), generator=generator)
    asked = torch.randn(40, 5, generator=generator)
    head = NeighborHead(5, 6, 0)
    head.remember(7 * kept, labels)
    neighbors = KNeighborsClassifier(
        n_neighbors=20, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07), algorithm="brute"
    )
    expected = neighbors.fit(kept.double(), labels).predict_proba(asked.double())
    shares = head(asked).softmax(1)
    np.testing.assert_allclose(shares[:, :4], expected, atol=2e-5)
    assert shares[:, 4:].max() < 2e-6 and np.array_equal(head(asked).argmax(1), neighbors.predict(asked.double()))
    few = NeighborHead(5, 4, 0)
    assert few(asked).unique().tolist() == [0]  # nothing is kept yet
    few.remember(kept[:3], labels[:3])
    assert few(asked).isfinite().all()


def test_kept_images_are_saved_with_the_weights(tmp_path):
    loaded = with_head(make_family("vit"), "knn")
    model = loaded.model
    model.head.remember(torch.randn(25, model.config.features), torch.arange(25) % 3)
    model.config.images = 25
    check_saved(loaded, tmp_path)


def test_the_backbone_keeps_its_weights_and_what_was_new_stays_new():
    model = make_family("resnet")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loaded = with_head(model, "mlp", frozenset({"resnet.embedder.embedder.convolution.weight", "classifier.1.weight"}))
    kept = {
        name.removeprefix("backbone."): own for name, own in loaded.model.state_dict().items() if "backbone" in name
    }
    assert weights.keys() - kept.keys() == {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(own, weights[name]) for name, own in kept.items())
    assert loaded.initialized - head_parameter_names(loaded.model) == {
        "backbone.resnet.embedder.embedder.convolution.weight"
    }


def test_what_cannot_have_one_is_refused():
    lenet = Architecture("lenet5", {}).load_config()
    model = AutoModelForImageClassification.from_config(lenet)
    with pytest.raises(UserError, match="head mlp takes the place of one linear layer .* LeNet5.* has not"):
        with_head(model, "mlp")
    custom = with_head(make_family("resnet"), "cosine")
    assert with_chosen_head(custom, None, (32, 32)) is custom
    with pytest.raises(UserError, match="head is mlp, and the checkpoint has the head cosine; use --head cosine"):
        with_chosen_head(custom, "mlp", (32, 32))


@pytest.mark.slow
def test_what_was_trained_with_arcface_is_what_pipeline_and_the_export_give(image_folder: Path, tmp_path: Path):
    make_family("resnet").save_pretrained(tmp_path / "base")
    recipe = {key: value for key, value in TINY_RECIPE.items() if not key.startswith("model_")}
    settings: dict[str, Any] = {
        **{"model_name_or_path": str(tmp_path / "base"), "dataset": str(image_folder), "loss": "arcface"},
        **{"image_size": 32, "learning_rate": 0.01, "layer_decay": 0.8, "train_transforms": ["MixUp"]},
    }
    output = tmp_path / "run"
    with pytest.raises(UserError, match="loss arcface is for logits that are cosines; use head=.cosine. as well"):
        finetune(recipe, output_dir=str(output), **settings)
    result = finetune(recipe, output_dir=str(output), head="cosine", **settings)
    classify = pipeline("image-classification", str(output), trust_remote_code=True)
    images = sorted((image_folder / "test").glob("*/*"))
    right = [classify(str(path))[0]["label"] == path.parent.name for path in images]
    assert sum(right) / len(right) == pytest.approx(result.metrics["test_accuracy"])
    figures = evaluate(str(output), dataset=str(image_folder)).metrics
    assert figures["accuracy"] == pytest.approx(result.metrics["test_accuracy"])
    assert export(str(output)).is_file()


def test_a_run_of_neighbors_gives_what_pipeline_and_the_export_do(
    image_folder: Path, tmp_path: Path, caplog: Any, monkeypatch: Any
):
    monkeypatch.setattr("hf_finetune.training.balance._UNBALANCED", 1)  # keys that are refused are not suggested
    caplog.set_level(logging.INFO, "hf_finetune")
    make_family("resnet").save_pretrained(tmp_path / "base")
    recipe = {key: value for key, value in TINY_RECIPE.items() if not key.startswith("model_")}
    settings: dict[str, Any] = {
        **{"model_name_or_path": str(tmp_path / "base"), "dataset": str(image_folder), "image_size": 32},
        **{"num_train_epochs": 0, "validation_fraction": 0.1, "head": "knn", "freeze": ["backbone"]},
    }
    output = tmp_path / "run"
    result = finetune(recipe, output_dir=str(output), **settings)
    assert "65 images are kept in" in caplog.text and result.metrics["test_accuracy"] > 0.6
    assert f"'{output}', trust_remote_code=True) loads it" in caplog.text
    assert "images. Judge by balanced_accuracy." in caplog.text and "--sampling" not in caplog.text
    assert "also chose the checkpoint" not in caplog.text  # no epoch, no choice
    classify = pipeline("image-classification", str(output), trust_remote_code=True)
    images = sorted((image_folder / "test").glob("*/*"))
    right = [classify(str(path))[0]["label"] == path.parent.name for path in images]
    assert sum(right) / len(right) == pytest.approx(result.metrics["test_accuracy"])
    assert export(str(output)).is_file()
    settings["model_name_or_path"] = str(output)  # its head is filled anew, with one of five of the images
    finetune(recipe, output_dir=str(tmp_path / "again"), max_train_samples=20, **settings)
    for wrong, message in (
        ({"num_train_epochs": 2}, "head knn keeps training images and has nothing to train; use num_train_epochs=0."),
        ({"peft": {"r": 2}, "freeze": None}, "peft says what is trained, and with head knn nothing is; use peft=None."),
        ({"head_init": "probe"}, "head_init: probe needs a head with one linear layer that gives the logits"),
        (
            {"class_weights": "balanced"},
            "class_weights would have no effect: with head knn and no epoch all training images count alike; use"
            ' head="linear" and head_init="probe", or leave it out.',
        ),
        ({"sampling": "sqrt"}, "sampling would have no effect: with head knn and no epoch all"),
        ({"calibrate": True}, "calibrate needs a head whose logits are the output of one linear layer"),
    ):
        with pytest.raises(UserError) as refused:
            finetune(recipe, output_dir=str(tmp_path / "other"), **{**settings, **wrong})
        assert message in str(refused.value), wrong
