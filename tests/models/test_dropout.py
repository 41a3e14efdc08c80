"""Stochastic depth and dropout before the head: active in training, absent in evaluation and in what is saved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification

from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError
from hf_finetune.models.dropout import drop_features, set_drop_path
from hf_finetune.models.freeze import freeze_modules
from hf_finetune.models.head import logits_layer
from hf_finetune.models.source import initialize
from tests.helpers.families import FAMILIES, make_family

DEEP = (
    "beit",
    "bit",
    "convnext",
    "convnextv2",
    "dinov2",
    "focalnet",
    "poolformer",
    "pvt",
    "pvt_v2",
    "segformer",
    "swin",
)


def _config(family: str) -> Any:
    config = AutoConfig.for_model(family, num_labels=3, **FAMILIES[family])
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def _differs(model: Any, pixels: torch.Tensor, times: int = 8) -> bool:
    with torch.no_grad():
        first = model(pixels).logits
        return any(not torch.equal(model(pixels).logits, first) for _ in range(times))


@pytest.mark.parametrize("family", DEEP)
def test_blocks_are_left_out_in_training_only(family):
    config, pixels = _config(family), torch.randn(4, 3, 32, 32)
    if family != "beit":  # which has a rate of its own
        set_drop_path(config, 0.0, {})
        assert not _differs(initialize(config, False).model.train(), pixels, 1)
    set_drop_path(config, 0.7, {})
    torch.manual_seed(0)
    model = initialize(config, trust_remote_code=False).model
    assert _differs(model.train(), pixels) and not _differs(model.eval(), pixels, 1)
    assert model.config.drop_path_rate == 0.7


def test_cvt_leaves_out_blocks_of_its_last_stage():
    config = _config("cvt")
    set_drop_path(config, 0.3, {})
    assert config.drop_path_rate == [0.0, 0.0, 0.3]


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "test_resnet"])
def test_a_network_of_timm_is_built_with_the_rate(architecture):
    pytest.importorskip("timm")
    config = AutoConfig.for_model("timm_wrapper", architecture=architecture, num_labels=3)
    set_drop_path(config, 0.5, {})
    assert config.model_args == {"drop_path_rate": 0.5}
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(config)
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.5)


@pytest.mark.parametrize("family", ["vit", "resnet", "levit", "efficientnet"])
def test_a_network_without_stochastic_depth_is_refused(family):
    told = rf"^drop_path: {family} has no stochastic depth; [^\n]* beit, [^\n]* swin, [^\n]*timm/vit"
    with pytest.raises(UserError, match=told):
        set_drop_path(_config(family), 0.1, {})


def test_a_network_of_timm_without_stochastic_depth_is_refused():
    pytest.importorskip("timm")
    config = AutoConfig.for_model("timm_wrapper", architecture="vgg11", num_labels=3)
    with pytest.raises(
        UserError, match=r"^drop_path: timm's vgg11 has no stochastic depth \([^\n]*\); leave drop_path"
    ):
        set_drop_path(config, 0.1, {})


def test_what_contradicts_it_is_refused():
    with pytest.raises(
        UserError, match=r"^drop_path and drop_path_rate in model_config are the same; leave one out\.$"
    ):
        set_drop_path(_config("swin"), 0.1, {"drop_path_rate": 0.2})
    with pytest.raises(UserError, match=r"^drop_path leaves out blocks of the backbone, which is frozen"):
        ModelArguments("x/y", drop_path=0.1, freeze=["backbone"])
    for name in ("drop_path", "head_dropout"):
        with pytest.raises(UserError, match=rf"^{name} is 1\.0; use a number from 0 to below 1, such as 0\.1\.$"):
            ModelArguments("x/y", **{name: 1.0})


@pytest.mark.parametrize("family", ["vit", "resnet", "dinov2", "levit", "clip"])
def test_features_are_dropped_before_the_last_layer_in_training_only(family):
    model = make_family(family).eval()
    layer, names, pixels = logits_layer(model), set(model.state_dict()), torch.randn(4, 3, 32, 32)
    assert layer is not None
    with torch.no_grad():
        layer.weight.normal_()
        before = model(pixels).logits
        drop_features(model, 0.2)
        drop_features(model, 0.5)  # replaces the first
        assert torch.equal(model(pixels).logits, before) and set(model.state_dict()) == names

        layer.train()
        features = torch.ones(2000, layer.in_features)
        dropped: list[torch.Tensor] = []
        layer.register_forward_pre_hook(lambda _, inputs: dropped.append(inputs[0]))
        layer(features)
        copy.deepcopy(layer)(features)
    for given in dropped:
        assert set(given.unique().tolist()) == {0.0, 2.0}
        assert (given == 0).float().mean() == pytest.approx(0.5, abs=0.02)


def test_a_head_that_drops_nothing_is_refused():
    model = make_family("resnet")
    freeze_modules(model, ["classifier"])
    with pytest.raises(UserError, match=r"^head_dropout is for a head that is trained, and freeze holds it"):
        drop_features(model, 0.1)
    model = make_family("resnet")
    model.classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3), torch.nn.Linear(3, 3))
    with pytest.raises(UserError, match=r"^head_dropout needs a head with one linear layer that gives the logits"):
        drop_features(model, 0.1)
