"""Compares networks of other libraries with what `--load_from` makes of their weights: the logits of both.

Each network is built by its own library. Its BatchNorm statistics and vectors are made random, and it is trained for
some steps of SGD on random images. Its state dict is saved as that library saves it and read as `--load_from` reads it;
then both networks see the same images in evaluation mode. Each line shows the largest difference of their logits beside
the standard deviation of the logits. The exit code is 1 if a difference is above 1e-5 times that, or times 1 if it is
less.

    python benchmarks/foreign_weights.py torchvision timm
    python benchmarks/foreign_weights.py mmpretrain

torchvision and timm are those of this package's `dev` extra. MMPretrain needs an environment of its own beside it: a
copy of this package's, and in it

    python -m pip install --no-deps mmpretrain==1.2.0 mmcv-lite==2.2.0 mmengine==0.10.7 model-index==0.1.11 mat4py \\
        addict yapf platformdirs termcolor einops ordered-set markdown "importlib_metadata<9" zipp \\
        opencv-python-headless
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_finetune.config.model import ModelArguments
from hf_finetune.models.load import load_trained

CLASSES = 10
Network = tuple[str, Callable[[], nn.Module], int]  # a name, what builds it, and the side of its images in pixels


def torchvision_networks() -> Iterator[Network]:
    from torchvision import models

    for depth in (18, 34, 50, 101, 152):
        yield f"resnet{depth}", partial(models.get_model, f"resnet{depth}", num_classes=CLASSES), 64
    for name in ("resnext50_32x4d", "wide_resnet50_2"):
        yield name, partial(models.get_model, name, num_classes=CLASSES), 64
    for name, size in (("vit_b_16", 224), ("vit_b_32", 224), ("convnext_tiny", 64), ("swin_t", 224)):
        yield name, partial(models.get_model, name, num_classes=CLASSES), size


def timm_networks() -> Iterator[Network]:
    import timm

    for name, size in (
        ("resnet18", 64),
        ("resnet26", 64),
        ("resnet50", 64),
        ("resnet101", 64),
        ("resnext50_32x4d", 64),
        ("wide_resnet50_2", 64),
        ("vit_tiny_patch16_224", 224),
        ("vit_small_patch32_224", 224),
        ("deit_small_patch16_224", 224),
        ("convnext_atto", 64),
        ("convnext_tiny", 64),
        ("swin_tiny_patch4_window7_224", 224),
    ):
        yield name, partial(timm.create_model, name, num_classes=CLASSES), size


def mmpretrain_networks() -> Iterator[Network]:
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    init_default_scope("mmpretrain")

    class Logits(nn.Module):
        """MMPretrain's classifier, whose forward pass does not return the logits."""

        def __init__(self, backbone: dict[str, Any], head: dict[str, Any], pooled: bool) -> None:
            super().__init__()
            neck = {"neck": {"type": "GlobalAveragePooling"}} if pooled else {}
            self.classifier = MODELS.build({"type": "ImageClassifier", "backbone": backbone, "head": head, **neck})

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.classifier.head(self.classifier.extract_feat(pixel_values))

        def state_dict(self, *arguments: Any, **settings: Any) -> dict[str, Any]:  # type: ignore[override]
            return self.classifier.state_dict(*arguments, **settings)

    def linear(channels: int) -> dict[str, Any]:
        return {"type": "LinearClsHead", "num_classes": CLASSES, "in_channels": channels}

    for depth in (18, 34, 50, 101, 152):
        channels = 512 if depth < 50 else 2048
        for kind, size in (("ResNet", 64), ("ResNet_CIFAR", 32)):
            backbone = {"type": kind, "depth": depth}
            yield f"{kind}-{depth}", partial(Logits, backbone, linear(channels), True), size
    resnext = {"type": "ResNeXt", "depth": 50, "groups": 32, "width_per_group": 4}
    yield "ResNeXt-50", lambda: Logits(resnext, linear(2048), True), 64
    for arch, width in (("deit-tiny", 192), ("small", 768), ("base", 768)):
        head = {"type": "VisionTransformerClsHead", "num_classes": CLASSES, "in_channels": width}
        backbone = {"type": "VisionTransformer", "arch": arch, "img_size": 224, "patch_size": 16}
        yield f"VisionTransformer {arch}", partial(Logits, backbone, head, False), 224
    convnext = {"type": "ConvNeXt", "arch": "tiny"}
    yield "ConvNeXt tiny", lambda: Logits(convnext, linear(768), False), 64
    swin = {"type": "SwinTransformer", "arch": "tiny", "img_size": 224}
    yield "SwinTransformer tiny", lambda: Logits(swin, linear(768), True), 224


LIBRARIES = {"torchvision": torchvision_networks, "timm": timm_networks, "mmpretrain": mmpretrain_networks}


def train(network: nn.Module, size: int, steps: int) -> None:
    """Make statistics and vectors random and train for some steps, so that no tensor keeps its initial values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point() and (tensor.ndim == 1 or any(w in name for w in ("token", "pos", "table"))):
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    network.train()
    for _ in range(steps):
        images = torch.randn(4, 3, size, size, generator=generator)
        labels = torch.randint(CLASSES, (4,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()


def compare(library: str, name: str, network: nn.Module, size: int, steps: int) -> bool:
    train(network, size, steps)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save({"meta": {}, "state_dict": network.state_dict()}, path)
        ours = load_trained(ModelArguments(load_from=str(path)))
    with torch.inference_mode():
        expected, logits = network.eval()(images), ours(images).logits
    difference, scale = (expected - logits).abs().max().item(), expected.std().item()
    print(f"{library:<12}{name:<32}{difference:>10.1e}{scale:>10.2f}", flush=True)
    return difference <= 1e-5 * max(1.0, scale)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("libraries", nargs="+", choices=LIBRARIES)
    parser.add_argument("--steps", type=int, default=3, help="Optimizer steps before the comparison.")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"{'library':<12}{'network':<32}{'difference':>10}{'std':>10}")
    agree = True
    for library in arguments.libraries:
        for name, build, size in LIBRARIES[library]():
            torch.manual_seed(0)
            agree &= compare(library, name, build(), size, arguments.steps)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
