"""Vision transformers (ViT, DeiT, the encoder of MAE) of torchvision, timm and MMPretrain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from hf_finetune.models.foreign.naming import Family, Misfit, Naming, count, tensor_of

_LAYER = "vit.encoder.layer.{n}"
_ATTENTION = tuple(f"{_LAYER}.attention.attention.{part}" for part in ("query", "key", "value"))
_TORCHVISION = {
    "class_token": "vit.embeddings.cls_token",
    "encoder.pos_embedding": "vit.embeddings.position_embeddings",
    "conv_proj": "vit.embeddings.patch_embeddings.projection",
    "encoder.layers.encoder_layer_{n}.ln_1": _LAYER + ".layernorm_before",
    "encoder.layers.encoder_layer_{n}.self_attention.in_proj_weight": tuple(f"{part}.weight" for part in _ATTENTION),
    "encoder.layers.encoder_layer_{n}.self_attention.in_proj_bias": tuple(f"{part}.bias" for part in _ATTENTION),
    "encoder.layers.encoder_layer_{n}.self_attention.out_proj": _LAYER + ".attention.output.dense",
    "encoder.layers.encoder_layer_{n}.ln_2": _LAYER + ".layernorm_after",
    "encoder.layers.encoder_layer_{n}.mlp.0": _LAYER + ".intermediate.dense",
    "encoder.layers.encoder_layer_{n}.mlp.3": _LAYER + ".output.dense",
    "encoder.layers.encoder_layer_{n}.mlp.linear_1": _LAYER + ".intermediate.dense",  # before torchvision 0.13
    "encoder.layers.encoder_layer_{n}.mlp.linear_2": _LAYER + ".output.dense",
    "encoder.ln": "vit.layernorm",
    "heads.head": "classifier",
}
_TIMM = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "blocks.{n}.norm1": _LAYER + ".layernorm_before",
    "blocks.{n}.attn.qkv": _ATTENTION,
    "blocks.{n}.attn.proj": _LAYER + ".attention.output.dense",
    "blocks.{n}.norm2": _LAYER + ".layernorm_after",
    "blocks.{n}.mlp.fc1": _LAYER + ".intermediate.dense",
    "blocks.{n}.mlp.fc2": _LAYER + ".output.dense",
    "norm": "vit.layernorm",
    "head": "classifier",
}
_MMPRETRAIN = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.projection": "vit.embeddings.patch_embeddings.projection",
    "layers.{n}.ln1": _LAYER + ".layernorm_before",
    "layers.{n}.attn.qkv": _ATTENTION,
    "layers.{n}.attn.proj": _LAYER + ".attention.output.dense",
    "layers.{n}.ln2": _LAYER + ".layernorm_after",
    "layers.{n}.ffn.layers.0.0": _LAYER + ".intermediate.dense",
    "layers.{n}.ffn.layers.1": _LAYER + ".output.dense",
    "ln1": "vit.layernorm",
    "head.layers.head": "classifier",
    "head.fc": "classifier",
}
_VARIANTS = {
    r"^dist_token$|^head_dist\.|^head\.layers\.head_dist\.": "with a distillation token (distilled DeiT)",
    r"^reg_token$|^register_tokens$": "with register tokens",
    r"^(fc_norm|ln2)\.": "whose head sees the average of all patches rather than the class token",
    r"\.(ls[12]\.gamma|gamma_?[12]|gamma[12]\.weight)$": "with layer scale (BEiT, DeiT III, DINOv2)",
    r"^(norm_pre|pre_norm)\.": "with a normalization before its first block (CLIP's)",
    r"\.attn\.(q_norm|k_norm|rope|relative_position_bias_table)\b": "with another attention",
    r"^attn_pool\.": "with attention pooling",
}
# The number of heads by (hidden size, layers), where a head does not have 64 channels. The shapes do not show it.
_HEADS = {
    (768, 8): 8,  # MMPretrain's "small"
    (1280, 32): 16,  # huge
    (1408, 40): 16,  # giant
    (1664, 48): 16,  # gigantic
}


def _configure(state: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, Any]]:
    patches = tensor_of(state, "vit.embeddings.patch_embeddings.projection.weight")
    hidden_size, channels, patch_size, _ = patches.shape
    if "vit.embeddings.cls_token" not in state:
        raise Misfit("without a class token")
    positions = tensor_of(state, "vit.embeddings.position_embeddings").shape[1]
    side = math.isqrt(positions - 1)
    if side * side != positions - 1:
        raise Misfit(f"with {positions} position embeddings, which is not a square of patches and a class token")
    layers = count(state, "vit.encoder.layer.{}.")
    return "vit", {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS.get((hidden_size, layers), max(1, hidden_size // 64)),
        "intermediate_size": tensor_of(state, "vit.encoder.layer.0.intermediate.dense.weight").shape[0],
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "num_channels": channels,
        "qkv_bias": "vit.encoder.layer.0.attention.attention.query.bias" in state,
        "layer_norm_eps": 1e-6,  # in all three libraries
    }


def _preprocessing(settings: Mapping[str, Any], library: str, file_name: str) -> dict[str, Any]:
    """Return the figures that differ from ImageNet's.

    timm scales the images of its ViTs to -1 ... 1, and so does MMPretrain at 384 pixels (its ...-384px.py). All others
    have ImageNet's figures, the DeiT and MAE of both libraries included. Their tensors have the names of a ViT's, so
    only the file's name tells them apart.
    """
    figures: dict[str, Any] = {"image_size": settings["image_size"]}
    like_imagenet = any(word in file_name.lower() for word in ("deit", "mae", "dino"))
    if not like_imagenet and (library == "timm" or (library == "MMPretrain" and settings["image_size"] == 384)):
        figures |= {"mean": (127.5,) * 3, "std": (127.5,) * 3}
    return figures


VIT = Family(
    "ViT",
    (Naming("torchvision", _TORCHVISION), Naming("timm", _TIMM), Naming("MMPretrain", _MMPRETRAIN)),
    _configure,
    "classifier",
    _VARIANTS,
    _preprocessing,
)
