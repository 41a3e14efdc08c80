"""The tables of names: numbers, parameters, splitting, and what has no place."""

from __future__ import annotations

import pytest
import torch

from hf_finetune.models.foreign.naming import Misfit, Naming, count, tensor_of

NAMING = Naming(
    "a library",
    {
        "layer{s+1}.{b}.conv{c+1}": "stages.{s}.{b}.{c}",
        "features.{2s+1}.norm": "norms.{s}",
        "qkv": ("query", "key", "value"),
        "in_weight": ("query.weight", "key.weight", "value.weight"),
        "token": "cls_token",
    },
)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("layer1.0.conv1.weight", ["stages.0.0.0.weight"]),
        ("layer4.22.conv3.running_mean", ["stages.3.22.2.running_mean"]),
        ("features.5.norm.bias", ["norms.2.bias"]),
        ("token", ["cls_token"]),
        ("qkv.bias", ["query.bias", "key.bias", "value.bias"]),
        ("in_weight", ["query.weight", "key.weight", "value.weight"]),
    ],
)
def test_a_name_with_a_place(key, names):
    assert NAMING.place([key]).places == {key: names}


@pytest.mark.parametrize("key", ["layer0.0.conv1.weight", "features.4.norm.bias", "tokens", "layer1.0.conv1.a.weight"])
def test_a_name_without(key):
    assert NAMING.place([key]).misplaced == [key]


def test_what_is_computed_is_passed_over_and_what_stands_beside_is_named():
    placement = NAMING.place(["x.relative_position_index", "attn_mask", "mask_token", "decoder.weight", "ema_layer1_0"])
    assert not placement.places and not placement.misplaced
    assert placement.beside == ["mask_token", "decoder.weight", "ema_layer1_0"]


def test_a_split_tensor_is_the_three_in_order():
    fused = torch.arange(12.0).view(6, 2)
    converted = NAMING.convert({"qkv.weight": fused}, NAMING.place(["qkv.weight"]).places)
    assert list(converted) == ["query.weight", "key.weight", "value.weight"]
    assert torch.equal(torch.cat(list(converted.values())), fused)


def test_shapes_that_cannot_be_are_a_misfit():
    places = NAMING.place(["qkv.weight"]).places
    with pytest.raises(Misfit, match=r"whose qkv.weight is of shape \(2, 2\)"):
        NAMING.convert({"qkv.weight": torch.zeros(2, 2)}, places)
    with pytest.raises(Misfit, match="without query.weight"):
        tensor_of({}, "query.weight")


def test_counting_ends_at_the_first_gap():
    assert count({"a.0.x": torch.zeros(1), "a.1.x": torch.zeros(1), "a.3.x": torch.zeros(1)}, "a.{}.") == 2
