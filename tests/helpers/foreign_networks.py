"""Networks of torchvision and timm with random tensors, small where the library allows it."""

from __future__ import annotations

from collections.abc import Mapping

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

CLASSES = 5
# A name and what builds it, with the side of its images in pixels.
NETWORKS = {
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=CLASSES), 64),
    "torchvision resnet50": (lambda: torchvision.models.resnet50(num_classes=CLASSES), 64),
    "torchvision vit": (lambda: VisionTransformer(32, 8, 2, 2, 128, 192, num_classes=CLASSES), 32),
    "torchvision convnext": (
        lambda: ConvNeXt(
            [CNBlockConfig(8, 16, 2), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], 0.0, 1.0, CLASSES
        ),
        64,
    ),
    "torchvision swin": (
        lambda: SwinTransformer([4, 4], 16, [2, 2, 2], [1, 2, 4], [7, 7], num_classes=CLASSES),
        112,
    ),
    "timm resnet14": (
        lambda: timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (1, 1, 1, 1), num_classes=CLASSES),  # type: ignore[arg-type]
        64,
    ),
    "timm resnext": (
        lambda: timm.create_model("resnext50_32x4d", layers=(1, 1, 1, 1), num_classes=CLASSES),
        64,
    ),
    "timm wide resnet": (
        lambda: timm.create_model("wide_resnet50_2", layers=(1, 1, 1, 1), num_classes=CLASSES),
        64,
    ),
    "timm vit": (lambda: timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64, num_classes=CLASSES), 64),
    "timm vit without qkv bias": (
        lambda: timm.create_model("vit_tiny_patch16_224", depth=1, img_size=64, qkv_bias=False, num_classes=CLASSES),
        64,
    ),
    "timm convnext": (
        lambda: timm.create_model("convnext_atto", depths=(1, 2, 1, 1), dims=(8, 16, 24, 32), num_classes=CLASSES),
        64,
    ),
    "timm convnext of linear layers": (
        lambda: timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=CLASSES),
        64,
    ),
    "timm swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            embed_dim=16,
            depths=(2, 2, 2, 1),
            num_heads=(1, 2, 4, 8),
            num_classes=CLASSES,
        ),
        224,
    ),
}


def randomized(network: nn.Module) -> nn.Module:
    """Fill every vector, table and BatchNorm statistic from a fixed seed, and return the network in evaluation mode.

    In a new network they are zeros and ones, which would hide a tensor in the wrong place.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith(("running_var", "layer_scale", "gamma")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point() and (
                tensor.ndim == 1 or any(w in name for w in ("token", "pos_", "table"))
            ):
                tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
    return network.eval()


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomized(NETWORKS[name][0]())


class CifarResNet(torchvision.models.ResNet):
    """MMClassification's `ResNet_CIFAR` with the names of torchvision's ResNet."""

    def __init__(self, block: type[nn.Module], layers: list[int]) -> None:
        super().__init__(block, layers, num_classes=CLASSES)
        self.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        self.maxpool = nn.Identity()


def _renamed(state: Mapping[str, torch.Tensor], words: Mapping[str, str]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for old, new in words.items():
            name = name.replace(old, new)
        renamed[name if name.startswith("head.") else f"backbone.{name}"] = tensor
    return renamed


def as_mmpretrain(name: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict of these networks with the names and the layout of MMPretrain 1.2.

    benchmarks/foreign_weights.py compares MMPretrain's own networks, in an environment that has it.
    """
    if "resnet" in name:
        return _renamed(state, {"fc.": "head.fc."})
    if "vit" in name:
        names = {"blocks.": "layers.", "patch_embed.proj.": "patch_embed.projection.", "norm1": "ln1", "norm2": "ln2"}
        names |= {"mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1", "head.": "head.layers.head."}
        return {key.replace("backbone.norm.", "backbone.ln1."): value for key, value in _renamed(state, names).items()}
    if "convnext" in name:
        names = {"head.norm.": "norm3.", "blocks.": "", "conv_dw": "depthwise_conv", "mlp.fc": "pointwise_conv"}
        names |= {"stem.": "downsample_layers.0."}
        names |= {f"stages.{stage}.downsample.": f"downsample_layers.{stage}." for stage in (1, 2, 3)}
        return _renamed(state, names)
    names = {"patch_embed.proj.": "patch_embed.projection.", "attn.": "attn.w_msa.", "mlp.fc1": "ffn.layers.0.0"}
    names |= {"mlp.fc2": "ffn.layers.1", "layers.1.downsample": "layers.0.downsample"}
    names |= {"layers.2.downsample": "layers.1.downsample", "layers.3.downsample": "layers.2.downsample"}
    renamed = {}
    for key, value in _renamed(state, names).items():
        if ".downsample." in key:  # torch's unfold has the places of a channel side by side
            value = value.unflatten(-1, (2, 2, -1)).transpose(-1, -3).flatten(-3)
        key = key.replace("backbone.norm.", "backbone.norm3.").replace("backbone.layers.", "backbone.stages.")
        renamed[key.replace("ffn.stages.", "ffn.layers.")] = value
    return renamed
