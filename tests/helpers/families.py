"""Tiny networks of every family of Transformers' image classifiers, and small ones of timm's."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

from hf_finetune.models.source import initialize

_TRANSFORMER: dict[str, Any] = {
    **{"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "intermediate_size": 64,
}
_FOUR_STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 16, 16], "depths": [2, 1, 1, 1]}
_TWO_STAGES: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [2, 1]}
_WINDOWS: dict[str, Any] = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
_TOWERS: dict[str, Any] = {
    "vision_config": _TRANSFORMER,
    "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50000},
}
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("vit", "deit", "vit_msn", "ijepa"), _TRANSFORMER),
    "beit": {**_TRANSFORMER, "use_relative_position_bias": True},
    "dinov2": {key: value for key, value in _TRANSFORMER.items() if key != "intermediate_size"},
    "swin": {**_WINDOWS, "window_size": 4},
    "swinv2": {**_WINDOWS, "window_size": 4},
    "focalnet": {**_WINDOWS, "depths": [2, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]},
    "resnet": {**_TWO_STAGES, "embedding_size": 8, "layer_type": "bottleneck"},
    "bit": {**_TWO_STAGES, "embedding_size": 8, "num_groups": 2},
    "convnext": {**_TWO_STAGES, "num_stages": 2, "patch_size": 2},
    "convnextv2": {**_TWO_STAGES, "num_stages": 2, "patch_size": 2},
    "mobilenet_v1": {"image_size": 32, "depth_multiplier": 0.25},
    "mobilenet_v2": {"image_size": 32, "depth_multiplier": 0.35},
    "mobilevit": {"image_size": 32, "hidden_sizes": [16, 20, 24], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 32]},
    "efficientnet": {
        **{"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    },
    "regnet": {**_FOUR_STAGES, "embedding_size": 8, "groups_width": 8},
    "poolformer": _FOUR_STAGES,
    "pvt": {
        **{**_FOUR_STAGES, "image_size": 32, "num_attention_heads": [1, 2, 2, 2]},
        "sequence_reduction_ratios": [4, 2, 1, 1],
    },
    "pvt_v2": {**_FOUR_STAGES, "image_size": 32, "num_attention_heads": [1, 2, 2, 2]},
    "segformer": {**_FOUR_STAGES, "num_attention_heads": [1, 2, 2, 2]},
    "levit": {
        **{"image_size": 32, "hidden_sizes": [16, 32, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1]},
        "key_dim": [8, 8, 8],
    },
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "hgnet_v2": {},
    "clip": _TOWERS,
    "siglip": _TOWERS,
}
# By architecture of timm.
TIMM = (
    *("resnet18", "resnet50", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "regnety_002"),
    *("tf_efficientnet_lite0", "mobilenetv3_small_050", "densenet121", "vgg11", "beit_base_patch16_224"),
    *("efficientformer_l1", "levit_128s", "mixer_s16_224", "maxvit_pico_rw_256", "repvgg_a0", "fastvit_t8"),
)


def make_family(family: str) -> PreTrainedModel:
    """A network of a family of Transformers, or of timm's on the meta device, for three classes."""
    if family in TIMM:
        with torch.device("meta"):
            config = TimmWrapperConfig.from_dict({"architecture": family, "num_labels": 3, "num_classes": 3})
            return TimmWrapperForImageClassification(config)
    return initialize(AutoConfig.for_model(family, num_labels=3, **FAMILIES[family]), trust_remote_code=False).model
