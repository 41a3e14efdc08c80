"""Frozen means frozen: neither weights nor statistics move, and dropout is off."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    PreTrainedModel,
    SiglipConfig,
    SiglipForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_finetune import finetune
from hf_finetune.errors import UserError
from hf_finetune.models.freeze import freeze_modules
from hf_finetune.models.head import head_parameter_names
from tests.helpers.networks import CLASSES, make_model
from tests.helpers.tiny import tiny_timm, write_recipe
from tests.helpers.trainers import make_trainer

FAMILIES = ["resnet", "vit", "timm"]


def make(family: str) -> PreTrainedModel:
    return tiny_timm(CLASSES) if family == "timm" else make_model(family)


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_training_moves_the_head_alone(tmp_path, family):
    model = make(family)
    head = head_parameter_names(model)
    frozen = freeze_modules(model, ["backbone"])
    assert frozen.backbone
    before = snapshot(model)
    trainer = make_trainer(tmp_path, model, num_train_epochs=2, learning_rate=0.1, weight_decay=0.1)
    trainer.train()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == head
    optimized = {id(entry) for group in trainer.optimizer.param_groups for entry in group["params"]}
    assert optimized == {id(model.get_parameter(name)) for name in head}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_holds_through_train_and_in_copies(family):
    model = make(family)
    freeze_modules(model, ["backbone"])
    for copied in (model, copy.deepcopy(model)):
        before = snapshot(copied)
        copied.train()
        copied(pixel_values=torch.randn(4, 3, 16, 16))
        assert all(torch.equal(before[name], tensor) for name, tensor in copied.state_dict().items())
    # The copy holds its own modules, not those of the original.
    copied.to(torch.float64)
    copied.train()
    copied(pixel_values=torch.randn(4, 3, 16, 16, dtype=torch.float64))
    assert next(model.parameters()).dtype == torch.float32


class Split(torch.nn.Module):
    """A backbone that is split over two modules, one of which also holds the head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.BatchNorm2d(3)
        self.top = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(), torch.nn.Linear(3, CLASSES))


def test_a_module_that_holds_the_head_is_frozen_around_it(monkeypatch):
    model = Split()
    monkeypatch.setattr("hf_finetune.models.freeze.head_parameter_names", lambda _: {"top.2.weight", "top.2.bias"})
    model.num_parameters = lambda only_trainable=False: 0
    freeze_modules(model, ["backbone"])
    assert model.train() is model
    assert model.backbone.train() is model.backbone  # as `nn.Module.train` returns itself
    training = {name for name, module in model.named_modules() if module.training}
    assert training == {"", "top", "top.1", "top.2"}


def test_one_stage_alone(tmp_path):
    model = make_model("resnet")
    frozen = freeze_modules(model, ["resnet.embedder", "resnet.encoder.stages.0"])
    assert not frozen.backbone
    count = sum(
        parameter.numel()
        for module in (model.resnet.embedder, model.resnet.encoder.stages[0])
        for parameter in module.parameters()
    )
    assert frozen.report == (
        f"Frozen: resnet.embedder, resnet.encoder.stages.0, {count:,} of {model.num_parameters():,} parameters.",
    )
    before = snapshot(model)
    make_trainer(tmp_path, model, num_train_epochs=1, learning_rate=0.1).train()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    stage = {name for name in before if name.startswith(("resnet.embedder.", "resnet.encoder.stages.0."))}
    assert moved and not moved & stage
    # The other stage is trained as ever: each of its weights and statistics moves.
    assert moved >= {name for name in before if name.startswith("resnet.encoder.stages.1.")}


def test_all_modules_of_the_backbone_by_name_are_the_backbone():
    assert freeze_modules(make_model("resnet"), ["resnet"]).backbone
    assert not freeze_modules(make_model("resnet"), []).backbone


@pytest.mark.parametrize("family", ["resnet", "timm"])
def test_batch_norm_is_as_in_evaluation_and_the_rest_is_trained(tmp_path, family):
    model = make(family)
    norms = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert norms and not freeze_modules(model, ["batch_norm"]).backbone
    before = snapshot(model)
    make_trainer(tmp_path, model, num_train_epochs=1, learning_rate=0.1).train()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert moved == {name for name in before if not name.startswith(norms)}


def test_new_batch_norm_is_trained_and_a_network_without_it_is_left_alone():
    model = make_model("resnet")
    tensors = list(model.state_dict())
    stem = [name for name in tensors if name.startswith("resnet.embedder.")]
    assert freeze_modules(model, ["batch_norm"], tensors).report == ()
    assert all(parameter.requires_grad for parameter in model.parameters())
    (line,) = freeze_modules(model, ["batch_norm"], stem).report
    assert line.startswith("Frozen: batch_norm, ") and model.resnet.embedder.embedder.normalization.weight.requires_grad
    assert not model.resnet.encoder.stages[0].layers[0].layer[0].normalization.weight.requires_grad
    assert freeze_modules(make_model("vit"), ["batch_norm"]).report == ()


def test_dropout_in_what_is_frozen_is_off():
    set_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4,
        hidden_dropout_prob=0.5, num_labels=CLASSES,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    images = torch.randn(2, 3, 16, 16)
    model.train()
    assert not torch.equal(model(pixel_values=images).logits, model(pixel_values=images).logits)
    freeze_modules(model, ["backbone"])
    model.train()
    assert torch.equal(model(pixel_values=images).logits, model(pixel_values=images).logits)


def test_the_recipe_key(image_folder, tmp_path, capsys):
    recipe = write_recipe(tmp_path, freeze="resnet.embedder", num_train_epochs=1, output_dir=str(tmp_path / "output"))
    finetune(str(recipe), dataset=str(image_folder), save_total_limit=None)
    assert "Frozen: resnet.embedder, 1," in capsys.readouterr().out
    saved = load_file(tmp_path / "output/model.safetensors")
    assert torch.equal(saved["resnet.embedder.embedder.normalization.running_mean"], torch.zeros(8))


def test_a_network_that_does_not_tell_its_backbone_from_its_head():
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(vision_config={**vision, "image_size": 16, "patch_size": 4}, text_config=vision)
    model = SiglipForImageClassification(config)
    with pytest.raises(UserError, match="does not say which part of it is the backbone; use the names of modules:"):
        freeze_modules(model, ["backbone"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("backbon",), 'freeze: ResNetForImageClassification has no module "backbon". Did you mean "backbone"?'),
        (
            ("resnet.encoder.stage.0",),
            'Did you mean "resnet.encoder.stages.0"? Use backbone, batch_norm, or names',
        ),
        (("",), 'has no module "".'),
        (("resnet", "classifier"), "freeze: resnet, classifier leaves nothing to train; use backbone"),
        (("3",), "freeze holds 3; use backbone, batch_norm, or names of modules of the network."),
        (("{a: 1}",), "freeze holds {'a': 1}; use backbone"),
    ],
)
def test_mistakes(refused, words, message):
    assert message in refused("--freeze", *words)
