"""Ultralytics' classification trainer with its defaults, on a network of timm. Run by `peers`.

Its own weights are fetched from its releases, and would not be the same as the others'. So the blocks of its smallest
network are replaced by timm's network, and all else is its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from ultralytics.models.yolo.classify import ClassificationTrainer


class Blocks(nn.Module):
    """A network as the last block of one of Ultralytics': scores and logits in evaluation."""

    def __init__(self, weights: str, classes: int) -> None:
        """Load the network with a new head."""
        super().__init__()
        vars(self).update(i=0, f=-1, type="timm")  # its number, its input and its name there
        overlay = {"file": weights}
        self.net = timm.create_model(
            "tf_efficientnet_lite0", pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        )

    def forward(self, images: torch.Tensor) -> Any:
        """Return logits (batch, classes), in evaluation after the scores."""
        logits = self.net(images)
        return logits if self.training else (logits.softmax(dim=1), logits)


def main() -> None:
    """Train on DIR/train and print the accuracy on DIR/test."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()

    class TimmTrainer(ClassificationTrainer):
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            model = super().get_model(cfg, weights, verbose=False)
            model.model = nn.Sequential(Blocks(options.weights, self.data["nc"]))
            return model

    settings = {
        "data": str(options.folder), "epochs": options.epochs, "imgsz": options.size, "seed": options.seed,
        "workers": 0, "device": "cpu", "project": str(options.work), "name": "run", "plots": False,
        "val": False, "model": "yolo11n-cls.yaml",
    }  # fmt: skip
    trainer = TimmTrainer(overrides=settings)
    trainer.train()
    print(f"accuracy {trainer.metrics['metrics/accuracy_top1']}")


if __name__ == "__main__":
    main()
