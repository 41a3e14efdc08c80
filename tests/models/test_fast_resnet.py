"""fast_resnet: its start from images, what is trained of it, and that a saved one stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification, set_seed

from hf_finetune.errors import UserError
from hf_finetune.models import FastResNetConfig, FastResNetForImageClassification
from hf_finetune.models.batch_norm import synchronize_batch_norm
from tests.helpers.trainers import make_trainer


def make_network(**settings) -> FastResNetForImageClassification:
    set_seed(0)
    return FastResNetForImageClassification(FastResNetConfig(hidden_sizes=[8, 16], num_labels=4, **settings))


def correlated_images() -> torch.Tensor:
    noise = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    return smooth + smooth.mean(dim=1, keepdim=True)


def test_at_ten_classes_it_has_the_papers_size():
    network = FastResNetForImageClassification(FastResNetConfig(num_labels=10))
    assert sum(weight.numel() for weight in network.parameters()) == 1_971_362
    assert network(torch.randn(2, 3, 32, 32)).logits.shape == (2, 10)


def test_the_first_convolution_whitens_patches():
    network, images = make_network(whitening_epsilon=1e-6), correlated_images()
    network.initialize_from_images(images)
    whitened = network.features.whitening(images)
    directions, negatives = whitened.transpose(0, 1).flatten(1).chunk(2)
    torch.testing.assert_close(directions, -negatives)
    torch.testing.assert_close(torch.cov(directions), torch.eye(12), atol=2e-3, rtol=0)


def test_a_block_begins_by_passing_its_channels_on():
    convolution = make_network().features.blocks[1].convolution1
    images = torch.randn(2, 8, 8, 8)
    torch.testing.assert_close(convolution(images)[:, :8], images)


@pytest.mark.slow
def test_filters_and_scales_are_not_trained_and_a_saved_network_stays_so(tmp_path: Path):
    network = make_network()
    network.initialize_from_images(correlated_images())
    network.save_pretrained(tmp_path / "start")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "start")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    before = {name: tensor.clone() for name, tensor in again.state_dict().items()}
    make_trainer(tmp_path, again, num_train_epochs=1).train()
    kept = {name for name, tensor in again.state_dict().items() if torch.equal(tensor, before[name])}
    assert kept == {
        "features.whitening.weight",
        *(f"features.blocks.{block}.normalization{place}.weight" for block in (0, 1) for place in (1, 2)),
    }


def test_synchronized_batch_norm_is_refused_because_it_would_train_the_scale():
    with pytest.raises(UserError, match="the BatchNorm of FastResNetForImageClassification has a fixed scale"):
        synchronize_batch_norm(make_network())
