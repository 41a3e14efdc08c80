"""The ResNet for small images: its shape, its start, its recipes, and loading without this package."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.recipe import load_recipe
from hf_finetune.models import ResNetCifarConfig, ResNetCifarForImageClassification

TINY = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic", "num_labels": 3}


def test_the_stem_keeps_the_size_of_the_image():
    model = ResNetCifarForImageClassification(ResNetCifarConfig(**TINY)).eval()
    image = torch.randn(1, 3, 32, 32)
    assert model.resnet.embedder(image).shape == (1, 8, 32, 32)
    assert model.resnet(image).last_hidden_state.shape == (1, 16, 16, 16)
    assert model(image).logits.shape == (1, 3)


def test_it_has_the_parameters_of_mmclassifications_resnet_18():
    recipe = load_recipe("resnet18_cifar10_scratch", argument_fields()).values
    with torch.device("meta"):
        model = ResNetCifarForImageClassification(ResNetCifarConfig(**recipe["model_config"], num_labels=10))
    # MMPretrain's metafile says 11.17 million (resnet18_8xb16_cifar10).
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_every_residual_branch_begins_at_zero(layer_type):
    model = ResNetCifarForImageClassification(ResNetCifarConfig(**{**TINY, "layer_type": layer_type}))
    last = 2 if layer_type == "bottleneck" else 1
    scales = {name: tensor for name, tensor in model.named_parameters() if name.endswith("normalization.weight")}
    zero = {name for name, scale in scales.items() if not scale.any()}
    assert zero == {name for name in scales if f".layer.{last}." in name} and len(zero) == 3


def test_saved_weights_are_not_begun_anew(tmp_path):
    model = ResNetCifarForImageClassification(ResNetCifarConfig(**TINY)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    image = torch.randn(2, 3, 32, 32)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(again) is ResNetCifarForImageClassification
    torch.testing.assert_close(model(image).logits, again.eval()(image).logits)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "resnet_cifar.ResNetCifarConfig",
        "AutoModelForImageClassification": "resnet_cifar.ResNetCifarForImageClassification",
    }


@pytest.mark.parametrize(
    ("depth", "blocks", "layer_type"),
    [(18, 8, "basic"), (34, 16, "basic"), (50, 16, "bottleneck"), (101, 33, "bottleneck"), (152, 50, "bottleneck")],
)
def test_the_recipes_are_mmclassifications(depth, blocks, layer_type):
    values = load_recipe(f"resnet{depth}_cifar10_scratch", argument_fields()).values
    assert (sum(values["model_config"]["depths"]), values["model_config"]["layer_type"]) == (blocks, layer_type)
    assert depth == blocks * (3 if layer_type == "bottleneck" else 2) + 2  # with the stem and the head
    schedule = ("global_batch_size", "learning_rate", "lr_milestones", "num_train_epochs", "weight_decay")
    assert [values[key] for key in schedule] == [128, 0.1, [100, 150], 200, 1e-4]
    assert (values["image_size"], values["validation_fraction"]) == (32, 0)
    assert [next(iter(transform)) for transform in values["train_transforms"]] == ["RandomCrop", "RandomHorizontalFlip"]
