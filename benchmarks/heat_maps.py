"""How often a heat map has its maximum where the class was decided, in images whose class is the colour of a patch.

python -m benchmarks.heat_maps
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_finetune.errors import UserError
from hf_finetune.evaluation.heat_maps import METHODS, HeatMapper

SIDE, PATCH = 32, 8  # pixels of an image and of its patch
_TOKENS: dict[str, Any] = {"image_size": SIDE, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
_NETWORKS = ("ResNet, 2 stages", "BEiT, 2 layers", "ViT, 2 layers", "ViT, 4 layers")
_SEEDS = (0, 1)


def _network(name: str, seed: int) -> PreTrainedModel:
    set_seed(seed)
    settings: dict[str, Any] = {"num_labels": 3}
    if name.startswith("ResNet"):
        settings |= {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        return ResNetForImageClassification(ResNetConfig(**settings))
    settings |= {**_TOKENS, "num_hidden_layers": int(name.split()[1])}
    if name.startswith("BEiT"):
        settings |= {"patch_size": 8, "use_relative_position_bias": True}
        return BeitForImageClassification(BeitConfig(**settings))
    return ViTForImageClassification(ViTConfig(**settings, patch_size=4))


def with_patches(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images of noise with a patch anywhere, whose channel is the class, and the patches' centres in pixels."""
    draws = torch.Generator().manual_seed(seed)
    pixels = 0.2 * torch.randn(count, 3, SIDE, SIDE, generator=draws)
    labels = torch.randint(0, 3, (count,), generator=draws)
    places = torch.randint(0, SIDE // PATCH, (count, 2), generator=draws) * PATCH
    for image, label, (top, left) in zip(pixels, labels.tolist(), places.tolist(), strict=True):
        image[label, top : top + PATCH, left : left + PATCH] += 2
    return pixels, labels, places + PATCH / 2


def peaks(maps: torch.Tensor) -> torch.Tensor:
    """Return where the maximum of each map is, as (y, x) in pixels."""
    columns = maps.shape[2]
    place = maps.flatten(1).argmax(dim=1)
    return (torch.stack([place // columns, place % columns], dim=1) + 0.5) * SIDE / columns


def train(network: PreTrainedModel, steps: int) -> None:
    """Teach a network which channel the patch is in."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(steps):
        pixels, labels, _ = with_patches(32, step)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(pixel_values=pixels).logits, labels).backward()
        optimizer.step()
    network.eval()


def _hits(network: PreTrainedModel, method: str) -> str:
    """Return how many maxima are on the patch, and how many within its width, of the images that are classified."""
    pixels, labels, centres = with_patches(64, seed=1000)
    try:
        found = HeatMapper(network, method)(pixels)
    except UserError:
        return "-"
    distances = (peaks(found.maps) - centres).abs().amax(dim=1)[found.class_ids == labels]
    return f"{(distances <= PATCH / 2).float().mean():.0%} ({(distances <= PATCH).float().mean():.0%})"


def main() -> None:
    """Print a line for each network and seed."""
    print(f"| network | seed | {' | '.join(METHODS.values())} |\n| --- | --- | --- | --- |")
    for name in _NETWORKS:
        for seed in _SEEDS:
            network = _network(name, seed)
            train(network, steps=100 if name.endswith("4 layers") else 60)
            print(f"| {name} | {seed} | {' | '.join(_hits(network, method) for method in METHODS)} |", flush=True)


if __name__ == "__main__":
    main()
