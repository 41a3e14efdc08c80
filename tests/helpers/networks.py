"""Tiny networks of several families, with the same weights at every call."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PoolFormerConfig,
    PoolFormerForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

CLASSES = 4
SIDE = 16
TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def make_model(family: str) -> PreTrainedModel:
    """A tiny network, the same at every call."""
    set_seed(0)
    config: dict[str, Any] = {"num_labels": CLASSES}
    if family == "resnet":
        config |= {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        return ResNetForImageClassification(ResNetConfig(**config))
    if family == "vit":
        config |= {**TINY_VIT, "num_hidden_layers": 2, "intermediate_size": 32, "image_size": SIDE, "patch_size": 4}
        return ViTForImageClassification(ViTConfig(**config))
    config |= {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
    return ConvNextForImageClassification(ConvNextConfig(**config))


def deep_resnet() -> PreTrainedModel:
    """A network whose last features are one pixel, of which BatchNorm needs those of two images at least."""
    set_seed(0)
    config: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 8, 16], "depths": [1] * 3, "num_labels": CLASSES}
    return ResNetForImageClassification(ResNetConfig(**config, layer_type="basic", downsample_in_first_stage=True))


def two_heads() -> PreTrainedModel:
    """A network whose logits are the mean of two linear layers'."""
    config: dict[str, Any] = {**TINY_VIT, "image_size": SIDE, "patch_size": 4, "num_labels": CLASSES}
    return DeiTForImageClassificationWithTeacher(DeiTConfig(**config))


def norm_and_head() -> PreTrainedModel:
    """A network whose head is a norm and a linear layer beside each other, in no module of their own."""
    config: dict[str, Any] = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_labels": CLASSES}
    return PoolFormerForImageClassification(PoolFormerConfig(**config))


def hold_batch_norm(model: PreTrainedModel) -> None:
    """Keep BatchNorm in evaluation mode, in training too, so that a batch may be divided without another result."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = MethodType(_unchanged, module)  # type: ignore[method-assign]


def _unchanged(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    return module
