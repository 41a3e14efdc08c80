"""Tiny networks and recipes that several tests train in a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TINY_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}

# Learns the three colours of the `image_folder` fixture in a few steps.
TINY_RECIPE = {
    "model_type": "resnet",
    "model_config": TINY_RESNET,
    "image_size": 16,
    "crop_pct": 1.0,
    "image_mean": [110, 110, 110],
    "image_std": [70, 70, 70],
    "train_transforms": [{"RandomCrop": {"size": 16, "padding": 2}}, "RandomHorizontalFlip"],
    "global_batch_size": 16,
    "learning_rate": 0.05,
    "lr_milestones": [2],
    "num_train_epochs": 3,
    "logging_steps": 1,
    "use_cpu": True,
    "disable_tqdm": True,
}


def write_recipe(folder: Path, **changes: object) -> Path:
    """Write the tiny recipe, with changes, as a YAML file and return its path."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY_RECIPE, **changes}))
    return path


def tiny_timm(num_labels: int, **settings: Any) -> PreTrainedModel:
    """Return timm's smallest ResNet as a Transformers model; the test is skipped without timm."""
    pytest.importorskip("timm")
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, set_seed

    set_seed(0)
    config = TimmWrapperConfig(**{"architecture": "test_resnet", "num_labels": num_labels, **settings})
    return TimmWrapperForImageClassification(config)
