"""ResNet, and through timm ResNeXt and Wide ResNet, of torchvision, timm and MMPretrain, which use the same names.

A state dict does not show whether a bottleneck's stride is in its 3 x 3 convolution (as here) or in the 1 x 1 before it
(MMPretrain's style "caffe"), nor whether the stem has max pooling; both are taken to be as usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_finetune.models.foreign.naming import Family, Misfit, Naming, count, tensor_of

_LIBRARY = "torchvision, timm and MMPretrain"
_LAYER = "resnet.encoder.stages.{s}.layers.{b}"
_NAMES = {
    "conv1": "resnet.embedder.embedder.convolution",
    "bn1": "resnet.embedder.embedder.normalization",
    "layer{s+1}.{b}.conv{c+1}": _LAYER + ".layer.{c}.convolution",
    "layer{s+1}.{b}.bn{c+1}": _LAYER + ".layer.{c}.normalization",
    "layer{s+1}.{b}.downsample.0": _LAYER + ".shortcut.convolution",
    "layer{s+1}.{b}.downsample.1": _LAYER + ".shortcut.normalization",
    "fc": "classifier.1",
    "head.fc": "classifier.1",
}
# Transformers wraps timm's own network, which has the names that the file has.
_TIMM_NAMES = {
    "conv1": "timm_model.conv1",
    "bn1": "timm_model.bn1",
    "layer{s}.{b}.conv{c}": "timm_model.layer{s}.{b}.conv{c}",
    "layer{s}.{b}.bn{c}": "timm_model.layer{s}.{b}.bn{c}",
    "layer{s}.{b}.downsample.0": "timm_model.layer{s}.{b}.downsample.0",
    "layer{s}.{b}.downsample.1": "timm_model.layer{s}.{b}.downsample.1",
    "fc": "timm_model.fc",
    "head.fc": "timm_model.fc",
}
_VARIANTS = {
    r"^stem\.|^conv1\.\d": "with a stem of several convolutions (ResNet-C or -D)",
    r"\.downsample\.2\.": "with average pooling in its shortcuts (ResNet-D)",
    r"^layer\d+\.\d+\.conv2\.(fc1|fc2|conv|bn0)\b": "with split attention (ResNeSt)",
    r"^layer\d+\.\d+\.(se|se_layer|attn)\b": "with attention over its channels (SE-ResNet and the like)",
    r"^(avgpool|attnpool)\.": "with attention pooling (CLIP's)",
}


def _check_statistics(state: Mapping[str, torch.Tensor]) -> None:
    if not any(name.endswith(".running_mean") for name in state):
        raise Misfit("without running statistics (GroupNorm)")


def _configure(state: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, Any]]:
    stem = tensor_of(state, "resnet.embedder.embedder.convolution.weight")
    model_type = {7: "resnet", 3: "resnet_cifar"}.get(stem.shape[-1])
    if model_type is None:
        raise Misfit(f"with a stem of {stem.shape[-1]} x {stem.shape[-1]} pixels rather than 7 x 7")
    _check_statistics(state)
    stages = count(state, "resnet.encoder.stages.{}.")
    block = "resnet.encoder.stages.{}.layers.0.layer.{}.convolution.weight"
    bottleneck = block.format(0, 2) in state
    outputs = [tensor_of(state, block.format(stage, 2 if bottleneck else 1)) for stage in range(stages)]
    for stage, output in enumerate(outputs):
        middle = tensor_of(state, block.format(stage, 1))
        if middle.shape[1] != tensor_of(state, block.format(stage, 0)).shape[0]:
            raise Misfit("with grouped convolutions other than a ResNeXt's")
        if bottleneck and 4 * middle.shape[0] != output.shape[0]:
            raise Misfit("with bottlenecks of other widths than a Wide ResNet's")
    return model_type, {
        "num_channels": stem.shape[1],
        "embedding_size": stem.shape[0],
        "hidden_sizes": [output.shape[0] for output in outputs],
        "depths": [count(state, f"resnet.encoder.stages.{stage}.layers.{{}}.") for stage in range(stages)],
        "layer_type": "bottleneck" if bottleneck else "basic",
    }


def _configure_timm(state: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, Any]]:
    stem = tensor_of(state, "timm_model.conv1.weight")
    _check_statistics(state)
    middle = tensor_of(state, "timm_model.layer1.0.conv2.weight")
    output = tensor_of(state, "timm_model.layer1.0.conv3.weight")
    if tuple(stem.shape[2:]) != (7, 7) or stem.shape[0] != 64 or output.shape[0] != 256:
        raise Misfit("with other widths than those of timm's")
    groups = middle.shape[0] // middle.shape[1]
    layers = [count(state, f"timm_model.layer{stage}.{{}}.") for stage in range(1, 5)]
    return "timm_wrapper", {
        "architecture": "resnet50",
        "model_args": {
            "layers": layers,
            "cardinality": groups,
            "base_width": middle.shape[0] // groups,
            "in_chans": stem.shape[1],
        },
    }


RESNET = Family("ResNet", (Naming(_LIBRARY, _NAMES),), _configure, "classifier.1", _VARIANTS)
RESNEXT = Family(
    "ResNeXt or Wide ResNet", (Naming(_LIBRARY, _TIMM_NAMES),), _configure_timm, "timm_model.fc", _VARIANTS
)
