"""ConvNeXt of its authors, of torchvision, timm and MMPretrain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_finetune.models.foreign.naming import Family, Misfit, Naming, count, tensor_of

_STAGE = "convnext.encoder.stages.{s}"
_LAYER = _STAGE + ".layers.{b}"
_AUTHORS = {
    "downsample_layers.0.0": "convnext.embeddings.patch_embeddings",
    "downsample_layers.0.1": "convnext.embeddings.layernorm",
    "downsample_layers.{s}.{d}": _STAGE + ".downsampling_layer.{d}",
    "stages.{s}.{b}.dwconv": _LAYER + ".dwconv",
    "stages.{s}.{b}.norm": _LAYER + ".layernorm",
    "stages.{s}.{b}.pwconv1": _LAYER + ".pwconv1",
    "stages.{s}.{b}.pwconv2": _LAYER + ".pwconv2",
    "stages.{s}.{b}.gamma": _LAYER + ".layer_scale_parameter",
    "norm": "convnext.layernorm",
    "head": "classifier",
}
_TORCHVISION = {
    "features.0.0": "convnext.embeddings.patch_embeddings",
    "features.0.1": "convnext.embeddings.layernorm",
    "features.{2s+1}.{b}.block.0": _LAYER + ".dwconv",
    "features.{2s+1}.{b}.block.2": _LAYER + ".layernorm",
    "features.{2s+1}.{b}.block.3": _LAYER + ".pwconv1",
    "features.{2s+1}.{b}.block.5": _LAYER + ".pwconv2",
    "features.{2s+1}.{b}.layer_scale": _LAYER + ".layer_scale_parameter",
    "features.{2s}.{d}": _STAGE + ".downsampling_layer.{d}",
    "classifier.0": "convnext.layernorm",
    "classifier.2": "classifier",
}
_TIMM = {
    "stem.0": "convnext.embeddings.patch_embeddings",
    "stem.1": "convnext.embeddings.layernorm",
    "stages.{s}.downsample.{d}": _STAGE + ".downsampling_layer.{d}",
    "stages.{s}.blocks.{b}.conv_dw": _LAYER + ".dwconv",
    "stages.{s}.blocks.{b}.norm": _LAYER + ".layernorm",
    "stages.{s}.blocks.{b}.mlp.fc1": _LAYER + ".pwconv1",
    "stages.{s}.blocks.{b}.mlp.fc2": _LAYER + ".pwconv2",
    "stages.{s}.blocks.{b}.gamma": _LAYER + ".layer_scale_parameter",
    "head.norm": "convnext.layernorm",
    "head.fc": "classifier",
}
_MMPRETRAIN = {
    "downsample_layers.0.0": "convnext.embeddings.patch_embeddings",
    "downsample_layers.0.1": "convnext.embeddings.layernorm",
    "downsample_layers.{s}.{d}": _STAGE + ".downsampling_layer.{d}",
    "stages.{s}.{b}.depthwise_conv": _LAYER + ".dwconv",
    "stages.{s}.{b}.norm": _LAYER + ".layernorm",
    "stages.{s}.{b}.pointwise_conv1": _LAYER + ".pwconv1",
    "stages.{s}.{b}.pointwise_conv2": _LAYER + ".pwconv2",
    "stages.{s}.{b}.gamma": _LAYER + ".layer_scale_parameter",
    "norm3": "convnext.layernorm",
    "head.fc": "classifier",
}
_VARIANTS = {r"\.grn\.": "with global response normalization (ConvNeXt V2)"}


def _adapt(name: str, tensor: torch.Tensor) -> torch.Tensor:
    # A linear layer may be saved as a 1 x 1 convolution, and torchvision's layer scale has shape (channels, 1, 1).
    if name.endswith((".pwconv1.weight", ".pwconv2.weight")):
        return tensor.flatten(1)
    return tensor.flatten() if name.endswith(".layer_scale_parameter") else tensor


def _configure(state: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, Any]]:
    stem = tensor_of(state, "convnext.embeddings.patch_embeddings.weight")
    if "convnext.embeddings.layernorm.bias" not in state:
        raise Misfit("without biases in its normalization (RMSNorm)")
    stages = count(state, "convnext.encoder.stages.{}.")
    convolutions = [tensor_of(state, f"convnext.encoder.stages.{s}.layers.0.dwconv.weight") for s in range(stages)]
    if any(tuple(weight.shape[1:]) != (1, 7, 7) for weight in convolutions):
        raise Misfit("with other depthwise convolutions than 7 x 7")
    return "convnext", {
        "num_channels": stem.shape[1],
        "patch_size": stem.shape[-1],
        "num_stages": stages,
        "hidden_sizes": [weight.shape[0] for weight in convolutions],
        "depths": [count(state, f"convnext.encoder.stages.{stage}.layers.{{}}.") for stage in range(stages)],
        "layer_scale_init_value": 1e-6 if any(name.endswith(".layer_scale_parameter") for name in state) else 0.0,
        "layer_norm_eps": 1e-6,  # in all of these libraries; Transformers' own default is 1e-12
    }


CONVNEXT = Family(
    "ConvNeXt",
    (
        Naming("torchvision", _TORCHVISION, _adapt),
        Naming("timm", _TIMM, _adapt),
        Naming("MMPretrain", _MMPRETRAIN, _adapt),
        Naming("ConvNeXt's authors", _AUTHORS, _adapt),
    ),
    _configure,
    "classifier",
    _VARIANTS,
)
