"""Tiny networks of several families, with the same weights at every call."""

from __future__ import annotations

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
    if family == "resnet":
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=CLASSES
        )
        return ResNetForImageClassification(config)
    if family == "vit":
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        return ViTForImageClassification(ViTConfig(image_size=SIDE, patch_size=4, num_labels=CLASSES, **sizes))
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=CLASSES)
    return ConvNextForImageClassification(config)


def two_heads() -> PreTrainedModel:
    return DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY_VIT, image_size=16, patch_size=4, num_labels=4))


def norm_and_head() -> PreTrainedModel:
    return PoolFormerForImageClassification(PoolFormerConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_labels=4))


def hold_batch_norm(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module
