"""Swin transformers of their authors, of torchvision, timm and MMPretrain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from hf_finetune.models.foreign.naming import Family, Misfit, Naming, count, tensor_of

_STAGE = "swin.encoder.layers.{s}"
_LAYER = _STAGE + ".blocks.{b}"
_ATTENTION = tuple(f"{_LAYER}.attention.self.{part}" for part in ("query", "key", "value"))
_BIAS_TABLE = "attention.self.relative_position_bias_table"
_TORCHVISION = {
    "features.0.0": "swin.embeddings.patch_embeddings.projection",
    "features.0.2": "swin.embeddings.norm",
    "features.{2s+1}.{b}.norm1": _LAYER + ".layernorm_before",
    "features.{2s+1}.{b}.attn.qkv": _ATTENTION,
    "features.{2s+1}.{b}.attn.relative_position_bias_table": f"{_LAYER}.{_BIAS_TABLE}",
    "features.{2s+1}.{b}.attn.proj": _LAYER + ".attention.output.dense",
    "features.{2s+1}.{b}.norm2": _LAYER + ".layernorm_after",
    "features.{2s+1}.{b}.mlp.0": _LAYER + ".intermediate.dense",
    "features.{2s+1}.{b}.mlp.3": _LAYER + ".output.dense",
    "features.{2s+2}.norm": _STAGE + ".downsample.norm",
    "features.{2s+2}.reduction": _STAGE + ".downsample.reduction",
    "norm": "swin.layernorm",
    "head": "classifier",
}
_BLOCKS = {
    "patch_embed.proj": "swin.embeddings.patch_embeddings.projection",
    "patch_embed.norm": "swin.embeddings.norm",
    "absolute_pos_embed": "swin.embeddings.position_embeddings",
    "layers.{s}.blocks.{b}.norm1": _LAYER + ".layernorm_before",
    "layers.{s}.blocks.{b}.attn.qkv": _ATTENTION,
    "layers.{s}.blocks.{b}.attn.relative_position_bias_table": f"{_LAYER}.{_BIAS_TABLE}",
    "layers.{s}.blocks.{b}.attn.proj": _LAYER + ".attention.output.dense",
    "layers.{s}.blocks.{b}.norm2": _LAYER + ".layernorm_after",
    "layers.{s}.blocks.{b}.mlp.fc1": _LAYER + ".intermediate.dense",
    "layers.{s}.blocks.{b}.mlp.fc2": _LAYER + ".output.dense",
    "norm": "swin.layernorm",
    "head.fc": "classifier",
    "head": "classifier",
}
# Since version 0.9 timm counts the merging of patches to the stage after it.
_TIMM = {
    **_BLOCKS,
    "layers.{s+1}.downsample.norm": _STAGE + ".downsample.norm",
    "layers.{s+1}.downsample.reduction": _STAGE + ".downsample.reduction",
}
_AUTHORS = {
    **_BLOCKS,
    "layers.{s}.downsample.norm": _STAGE + ".downsample.norm",
    "layers.{s}.downsample.reduction": _STAGE + ".downsample.reduction",
}
_MMPRETRAIN = {
    "patch_embed.projection": "swin.embeddings.patch_embeddings.projection",
    "patch_embed.norm": "swin.embeddings.norm",
    "absolute_pos_embed": "swin.embeddings.position_embeddings",
    "stages.{s}.blocks.{b}.norm1": _LAYER + ".layernorm_before",
    "stages.{s}.blocks.{b}.attn.w_msa.qkv": _ATTENTION,
    "stages.{s}.blocks.{b}.attn.w_msa.relative_position_bias_table": f"{_LAYER}.{_BIAS_TABLE}",
    "stages.{s}.blocks.{b}.attn.w_msa.proj": _LAYER + ".attention.output.dense",
    "stages.{s}.blocks.{b}.norm2": _LAYER + ".layernorm_after",
    "stages.{s}.blocks.{b}.ffn.layers.0.0": _LAYER + ".intermediate.dense",
    "stages.{s}.blocks.{b}.ffn.layers.1": _LAYER + ".output.dense",
    "stages.{s}.downsample.norm": _STAGE + ".downsample.norm",
    "stages.{s}.downsample.reduction": _STAGE + ".downsample.reduction",
    "norm3": "swin.layernorm",
    "head.fc": "classifier",
}
_VARIANTS = {
    r"\.attn\.(w_msa\.)?(logit_scale|cpb_mlp|tau|meta_mlp)\b": "of version 2 (Swin V2)",
}


def _adapt_mmpretrain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Reorder the inputs of a patch merging, which joins four neighbouring patches.

    MMPretrain orders them by channel, then by the patch's position, row by row. Transformers and the authors order them
    by the patch's position, column by column, then by channel.
    """
    if ".downsample." not in name:
        return tensor
    places: torch.Tensor = tensor.unflatten(-1, (-1, 2, 2))  # (..., channels, row, column)
    return places.transpose(-1, -3).flatten(-3)  # (..., column, row, channels)


def _configure(state: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, Any]]:
    patches = tensor_of(state, "swin.embeddings.patch_embeddings.projection.weight")
    width, channels, patch_size, _ = patches.shape
    stages = count(state, "swin.encoder.layers.{}.")
    tables = [tensor_of(state, f"swin.encoder.layers.{stage}.blocks.0.{_BIAS_TABLE}") for stage in range(stages)]
    if len({len(table) for table in tables}) > 1:
        raise Misfit("with windows of several sizes")
    window_size = (math.isqrt(len(tables[0])) + 1) // 2  # a table has a row for each of (2w - 1)^2 distances
    hidden = tensor_of(state, "swin.encoder.layers.0.blocks.0.intermediate.dense.weight").shape[0]
    return "swin", {
        # The last stage is one window: 224 pixels for windows of 7, 384 for 12. It matters only for position
        # embeddings; an image of another size is padded.
        "image_size": patch_size * window_size * 2 ** (stages - 1),
        "patch_size": patch_size,
        "num_channels": channels,
        "embed_dim": width,
        "depths": [count(state, f"swin.encoder.layers.{stage}.blocks.{{}}.") for stage in range(stages)],
        "num_heads": [table.shape[1] for table in tables],
        "window_size": window_size,
        "mlp_ratio": hidden / width,
        "qkv_bias": "swin.encoder.layers.0.blocks.0.attention.self.query.bias" in state,
        "use_absolute_embeddings": "swin.embeddings.position_embeddings" in state,
        "layer_norm_eps": 1e-5,  # in all of these libraries
    }


SWIN = Family(
    "Swin",
    (
        Naming("torchvision", _TORCHVISION),
        Naming("timm", _TIMM),
        Naming("MMPretrain", _MMPRETRAIN, _adapt_mmpretrain),
        Naming("Swin's authors", _AUTHORS),
    ),
    _configure,
    "classifier",
    _VARIANTS,
    lambda settings, library, file_name: {"image_size": settings["image_size"]},
)
