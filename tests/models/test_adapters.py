"""LoRA and DoRA: which layers, the formula, the files, and what PEFT and Transformers load."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, PreTrainedModel

pytest.importorskip("peft")

from hf_finetune.config.model import ModelArguments
from hf_finetune.config.peft_keys import adapter_settings
from hf_finetune.errors import UserError
from hf_finetune.models.adapters import (
    adapted_names,
    add_adapters,
    load_adapter,
    merge_adapters,
    save_adapter,
    weights_below,
)
from hf_finetune.models.head import class_names, head_linear
from hf_finetune.models.load import load_config, load_model, load_trained
from tests.helpers.networks import CLASSES, SIDE, make_model, norm_and_head
from tests.helpers.tiny import tiny_timm

NETWORKS: dict[str, Callable[[], PreTrainedModel]] = {
    "vit": lambda: make_model("vit"),
    "resnet": lambda: make_model("resnet"),
    "timm": lambda: tiny_timm(CLASSES),
}


def images() -> torch.Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def adapted(network: str, train: bool = True, **peft: object) -> PreTrainedModel:
    """A network with adapters; all that is trained is changed, as by a training."""
    model = NETWORKS[network]().eval()
    add_adapters(model, adapter_settings({"r": 2, **peft}), (SIDE, SIDE), seed=0)
    if train:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def save(model: PreTrainedModel, folder: Path) -> None:
    save_adapter(model, folder)
    model.save_pretrained(folder, state_dict=weights_below(model))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixel_values=images()).logits


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("use_dora", [False, True])
def test_training_begins_with_the_network_and_reaches_every_adapter(network: str, use_dora: bool):
    model = adapted(network, train=False, use_dora=use_dora)
    torch.testing.assert_close(logits(model), logits(NETWORKS[network]()), atol=1e-5, rtol=0)
    model.train()
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm))
    model(pixel_values=images()).logits.square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == set(adapted_names(model)) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert any(name.startswith("classifier.") or ".fc." in name for name in trained)


def test_the_formula_is_lora():
    """Hu et al. 2021, section 4.1: W x + (alpha / r) B A x."""
    model, name = adapted("vit", lora_alpha=6, target_modules=["q_proj"]), "vit.layers.0.attention.q_proj"
    layer, x = model.get_submodule(name), torch.randn(3, 16)
    expected = layer.base_layer(x) + 6 / 2 * x @ layer.lora_A.default.weight.T @ layer.lora_B.default.weight.T
    torch.testing.assert_close(layer(x), expected)


def test_auto_takes_what_an_image_goes_through():
    def targets(network: str, r: int) -> set[str]:
        model = NETWORKS[network]()
        add_adapters(model, adapter_settings({"r": r}), (SIDE, SIDE), seed=0)
        return {name.partition(".lora_")[0] for name in adapted_names(model) if ".lora_" in name}

    per_layer = {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"}
    assert {name.rpartition(".")[2] for name in targets("vit", 2)} == per_layer
    resnet = targets("resnet", 2)
    assert all(".convolution" in name for name in resnet)
    assert not any(name.startswith("resnet.embedder") for name in resnet)  # it sees the pixels
    # A rank of 6 in a 1 x 1 convolution from 8 to 16 channels has 144 weights, in place of 128.
    assert {name for name in resnet if "shortcut" in name} and not any("shortcut" in n for n in targets("resnet", 6))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("use_dora", [False, True])
def test_what_is_saved_is_loaded_by_transformers_peft_and_this_package(tmp_path: Path, network: str, use_dora: bool):
    from peft import PeftModel

    model = adapted(network, use_dora=use_dora)
    expected = logits(model)
    assert (expected - logits(NETWORKS[network]())).abs().max() > 0.01
    save(model, tmp_path)
    torch.testing.assert_close(logits(AutoModelForImageClassification.from_pretrained(tmp_path)), expected)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(NETWORKS[network](), str(tmp_path))), expected)
    merged = load_trained(ModelArguments(str(tmp_path)))
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)
    assert merged.state_dict().keys() == NETWORKS[network]().state_dict().keys()
    again = NETWORKS[network]()
    add_adapters(again, adapter_settings({"r": 2, "use_dora": use_dora}), (SIDE, SIDE), seed=5)
    load_adapter(again, tmp_path)
    assert all(torch.equal(again.state_dict()[name], model.state_dict()[name]) for name in adapted_names(model))


def test_without_peft_no_class_is_preferred_and_this_package_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(adapted("vit"), tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):  # what Transformers does without PEFT
        (tmp_path / name).rename(tmp_path / f"{name}.hidden")
    assert not logits(AutoModelForImageClassification.from_pretrained(tmp_path)).any()
    (tmp_path / "adapter_config.json.hidden").rename(tmp_path / "adapter_config.json")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "hf_finetune.models.adapters.find_spec", lambda name: None if name == "peft" else find_spec(name)
    )
    with pytest.raises(UserError, match=r"has an adapter, which needs the package peft; install .*hf-finetune\[peft\]"):
        load_trained(ModelArguments(str(tmp_path)))
    with pytest.raises(UserError, match=r"The key peft needs the package peft"):
        adapted("vit")


def test_a_run_starts_from_an_adapter_with_other_classes(tmp_path: Path):
    model = adapted("vit")
    save(model, tmp_path)
    source = ModelArguments(str(tmp_path))
    loaded = load_model(source, load_config(source, ["a", "b"]), ["a", "b"], seed=0)
    assert loaded.initialized == {"classifier.weight", "classifier.bias"}
    assert class_names(loaded.model.config) == ["a", "b"] and "Its adapter is merged." in loaded.report
    merge_adapters(model)
    for name, tensor in model.vit.state_dict().items():
        torch.testing.assert_close(loaded.model.vit.state_dict()[name], tensor)
    assert head_linear(loaded.model).weight.any()


@pytest.mark.parametrize(
    ("network", "peft", "line"),
    [
        ("vit", {"target_modules": ["q_projj"]}, 'has no module "q_projj". Did you mean "q_proj"'),
        ("vit", {"target_modules": ["classifier"]}, "classifier is of the head, which is trained whole"),
        ("vit", {"target_modules": ["encoder", "attention"]}, 'has no module "encoder"'),
        ("vit", {"target_modules": ["attention"]}, "is ViTAttention; use linear layers and convolutions"),
        ("vit", {"r": 100}, "no layer outside its head for rank 100; use a smaller r"),
        ("other", {}, "has other modules whose names end in norm"),
        ("adapted", {}, "has an adapter already"),
    ],
)
def test_what_cannot_be_is_one_line(network: str, peft: dict[str, object], line: str):
    model = {"other": norm_and_head, "adapted": lambda: adapted("vit")}.get(network, NETWORKS.get(network))()
    with pytest.raises(UserError, match=line):
        add_adapters(model, adapter_settings(peft), (SIDE, SIDE), seed=0)
