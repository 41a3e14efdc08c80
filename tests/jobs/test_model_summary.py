"""What a network costs: operations as published, parts that add up, and the command with its mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTForImageClassification

from hf_finetune import UserError, summarize
from hf_finetune.cli.main import main
from hf_finetune.config.model import ModelArguments
from hf_finetune.jobs.model_summary import run_summary
from tests.helpers.tiny import TINY_RESNET

# torchvision's table of resnet50 and vit_b_16: parameters, and multiply-adds of an image of 224 x 224.
PUBLISHED = {
    ResNetForImageClassification: (25_557_032, 4.09e9),
    ViTForImageClassification: (86_567_656, 17.56e9),
}


@pytest.mark.parametrize("network", PUBLISHED)
def test_operations_and_parameters_are_the_published_ones(network):
    with torch.device("meta"):
        model = network(network.config_class(num_labels=1000))
    summary = summarize(model, image_size=224, measure=False)
    parameters, multiply_adds = PUBLISHED[network]
    assert summary.parameters == parameters and summary.weight_bytes == 4 * parameters
    assert summary.flops / 2 == pytest.approx(multiply_adds, rel=0.01)
    outermost = [part for part in summary.parts if "." not in part.name]
    assert sum(part.parameters for part in outermost) == parameters
    assert sum(part.flops for part in outermost) == summary.flops
    lists = [part for part in summary.parts if part.kind == "ModuleList"]
    assert all(part.flops > 0.9 * summary.flops for part in lists)  # although no list is ever called


def test_the_memory_of_a_step_grows_with_the_pixels():
    model = ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=3))
    small, large = (summarize(model, image_size=side, measure=False) for side in (32, 64))
    assert large.training_bytes_per_image == pytest.approx(4 * small.training_bytes_per_image, rel=0.05)
    assert large.flops == pytest.approx(4 * small.flops, rel=0.05)


def test_the_command_prints_text_or_json(capsys):
    assert main(["summary", "resnet_small_cifar10", "--depth", "1", "--batch_size", "1"]) == 0
    printed = capsys.readouterr().out
    assert "parameters   905,530, 3.6 MB in float32" in printed and "images/s in prediction" in printed
    assert main(["summary", "resnet_small_cifar10", "--image_size", "32", "--no_speed", "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (document["height"], document["parameters"]) == (32, 905_530) and document["images_per_second"] is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["resnet_small_cifar"], 'there is no checkpoint "resnet_small_cifar". Did you mean "resnet_small_cifar10"?'),
        (["resnet_small_cifar10", "--image_size", "0"], "image_size is 0; use the side in pixels"),
        (["resnet_small_cifar10", "--depth", "0"], "--depth and --batch_size are at least 1."),
    ],
)
def test_mistakes(words, line, capsys):
    assert main(["summary", *words, "--no_speed"]) == 2
    assert line in capsys.readouterr().err


def test_images_that_a_network_does_not_take():
    with pytest.raises(UserError, match="convnext takes no images of 1 x 1 .*; use another --image_size"):
        run_summary(ModelArguments(model_type="convnext"), image_size=1, measure=False)
