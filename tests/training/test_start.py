"""A network that asks for training images begins with them, and only where it begins from random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_finetune.models import FastResNetConfig, FastResNetForImageClassification
from hf_finetune.models.load import LoadedModel
from hf_finetune.training.start import start_from_images
from tests.helpers.trainers import make_trainer


def start(tmp_path: Path, initialized: set[str] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the filters of the first convolution before and after."""
    network = FastResNetForImageClassification(FastResNetConfig(hidden_sizes=[8, 8], num_labels=4))
    trainer = make_trainer(tmp_path, network, count=24)
    before = network.features.whitening.weight.clone()
    new = frozenset(network.state_dict() if initialized is None else initialized)
    start_from_images(trainer, LoadedModel(network, new, ""))
    return before, network.features.whitening.weight


def test_random_weights_begin_with_the_images(tmp_path: Path):
    before, after = start(tmp_path)
    assert not torch.allclose(before, after)
    assert torch.equal(after, start(tmp_path)[1])  # the same images each time


@pytest.mark.parametrize("initialized", [set(), {"classifier.weight", "classifier.bias"}])
def test_loaded_weights_are_kept(tmp_path: Path, initialized: set[str]):
    before, after = start(tmp_path, initialized)
    assert torch.equal(before, after)
