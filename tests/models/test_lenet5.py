"""LeNet-5: the network's shape, colour images, and saving and loading with and without this package."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_finetune.models import LeNet5Config, LeNet5ForImageClassification


def test_it_has_the_parameters_of_mmclassifications_lenet5():
    model = LeNet5ForImageClassification(LeNet5Config(num_labels=10))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "features.0.weight": (6, 1, 5, 5),
        "features.3.weight": (16, 6, 5, 5),
        "features.6.weight": (120, 16, 5, 5),
        "classifier.0.weight": (84, 120),
        "classifier.2.weight": (10, 84),
    }
    assert sum(parameter.numel() for parameter in model.parameters()) == 61_706


def test_a_grey_image_in_three_channels_is_the_image_in_one():
    model = LeNet5ForImageClassification(LeNet5Config(num_labels=10)).eval()
    grey = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(grey).logits, model(grey.expand(-1, 3, -1, -1)).logits)


def test_colour_is_reduced_to_luminance():
    model = LeNet5ForImageClassification(LeNet5Config(num_labels=10)).eval()
    colour = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    luminance = 0.299 * colour[:, :1] + 0.587 * colour[:, 1:2] + 0.114 * colour[:, 2:]
    torch.testing.assert_close(model(colour).logits, model(luminance).logits)


def test_the_loss_is_cross_entropy():
    model = LeNet5ForImageClassification(LeNet5Config(num_labels=3)).eval()
    output = model(torch.randn(2, 1, 32, 32), labels=torch.tensor([0, 2]))
    assert output.loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 2])).item()
    )


def test_the_loss_of_several_labels_is_binary_cross_entropy():
    """As that of all image classifiers of Transformers, for those who train a saved model with a loop of their own."""
    config = LeNet5Config(num_labels=3, problem_type="multi_label_classification")
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    model = LeNet5ForImageClassification(config).eval()
    output = model(torch.randn(2, 1, 32, 32), labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    assert output.loss.item() == pytest.approx(expected.item())
    assert model(torch.randn(2, 1, 32, 32), labels=labels, return_dict=False)[1].shape == (2, 3)


def test_it_loads_by_the_auto_classes_and_carries_its_code(tmp_path):
    model = LeNet5ForImageClassification(LeNet5Config(num_labels=10)).eval()
    model.save_pretrained(tmp_path)
    image = torch.randn(1, 1, 32, 32)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(model(image).logits, again(image).logits)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "lenet5.LeNet5Config",
        "AutoModelForImageClassification": "lenet5.LeNet5ForImageClassification",
    }
