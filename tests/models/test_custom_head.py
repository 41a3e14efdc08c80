"""Heads of an MLP and of cosines: on every family, saved and loaded, trained with ArcFace, refused where needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForImageClassification, pipeline

from hf_finetune import evaluate, export, finetune
from hf_finetune.errors import UserError
from hf_finetune.losses import COSINE_SCALE
from hf_finetune.models.choose_head import with_chosen_head
from hf_finetune.models.custom_head import SCALE, CosineHead
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
    assert loaded.initialized == head_parameter_names(model) == {f"head.{name}" for name in model.head.state_dict()}
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
