"""Ultralytics' classification trainer on a network of timm. Run by `programs`.

Its own weights are fetched from its releases, and its own networks are others than the peers'. So the blocks of its
smallest network are replaced by timm's network, and all else is its own.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn
from ultralytics.models.yolo.classify import ClassificationTrainer

from benchmarks.peers.child import child_parser


class Blocks(nn.Module):
    """A network as the last block of one of Ultralytics': scores and logits in evaluation."""

    def __init__(self, weights: str | None, classes: int) -> None:
        """Load EfficientNet-Lite0 with a new head, or make a ResNet-18 with random weights."""
        super().__init__()
        vars(self).update(i=0, f=-1, type="timm")  # its number, its input and its name there
        if weights is None:
            self.net = timm.create_model("resnet18", num_classes=classes)
            return
        overlay = {"file": weights}
        self.net = timm.create_model(
            "tf_efficientnet_lite0", pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        )

    def forward(self, images: torch.Tensor) -> Any:
        """Return logits (batch, classes), in evaluation after the scores."""
        logits = self.net(images)
        return logits if self.training else (logits.softmax(dim=1), logits)


def main() -> None:
    """Train on DIR/train and print the accuracy on DIR/val."""
    parser = child_parser()
    parser.add_argument("--weights", help="absent: a ResNet-18 from random weights")
    parser.add_argument("--epochs", type=int, required=True)
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
    if options.weights is None:
        # One optimizer step a batch (nbs), no warm-up, and no augmentation besides the crop and the mirroring.
        settings |= {
            "batch": options.batch, "nbs": options.batch, "optimizer": "AdamW", "lr0": options.rate, "lrf": 1,
            "weight_decay": options.decay, "warmup_epochs": 0, "workers": 1, "amp": False, "scale": 0.92,
            "auto_augment": None, "erasing": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0,
        }  # fmt: skip
    trainer = TimmTrainer(overrides=settings)
    trainer.train()
    print(f"accuracy {trainer.metrics['metrics/accuracy_top1']}")


if __name__ == "__main__":
    main()
