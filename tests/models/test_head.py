"""Which module is the head, over families that build it differently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification, pipeline

from hf_finetune.errors import UserError
from hf_finetune.models.head import head_linear, head_module, set_class_names
from hf_finetune.models.lenet5 import LeNet5Config, LeNet5ForImageClassification
from tests.helpers.networks import make_model, norm_and_head, two_heads
from tests.helpers.tiny import TINY_RESNET, tiny_timm


def test_the_head_is_the_outermost_module_that_holds_it_all():
    resnet, vit = make_model("resnet"), make_model("vit")
    assert head_module(resnet) is resnet.classifier and head_linear(resnet) is resnet.classifier[1]
    assert head_module(vit) is head_linear(vit) is vit.classifier


def test_the_head_of_a_timm_model_is_inside_its_backbone():
    model = tiny_timm(num_labels=4)
    assert head_module(model) is head_linear(model) is model.timm_model.fc


def test_a_head_of_several_modules_is_none_but_may_have_one_linear_layer():
    assert head_module(two_heads()) is None
    model = norm_and_head()
    assert head_module(model) is None and head_linear(model) is model.classifier


@pytest.mark.parametrize("make", [two_heads, lambda: LeNet5ForImageClassification(LeNet5Config())])
def test_several_linear_layers_cannot_be_probed(make):
    with pytest.raises(UserError, match="head_init: probe needs a head with one linear layer that gives the logits"):
        head_linear(make())


@pytest.mark.parametrize(
    ("left", "task"),
    [
        ({"problem_type": "multi_label_classification"}, "(multi_label_classification)"),
        ({"problem_type": "regression"}, "(regression)"),
        ({"function_to_apply": "sigmoid"}, "(function_to_apply: sigmoid)"),
        ({"problem_type": "single_label_classification", "function_to_apply": "none"}, "(function_to_apply: none)"),
        (
            {"problem_type": "multi_label_classification", "function_to_apply": "sigmoid"},
            "(multi_label_classification, function_to_apply: sigmoid)",
        ),
    ],
)
def test_the_task_of_an_old_head_does_not_outlive_it(tmp_path: Path, left: dict[str, str], task: str, caplog):
    config = ResNetConfig(**TINY_RESNET, **left)
    set_class_names(config, ["cat", "dog", "emu"])
    assert f"had another task {task}; the model is" in caplog.text and len(caplog.records) == 1
    set_class_names(config, ["cat", "dog", "emu"])
    assert len(caplog.records) == 1
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(tmp_path)
    scores = [found["score"] for found in pipeline("image-classification", str(tmp_path))(Image.new("RGB", (32, 32)))]
    assert len(scores) == 3 and sum(scores) == pytest.approx(1)


@pytest.mark.parametrize("task", [None, "single_label_classification"])
def test_the_task_of_a_classifier_stays(task: str | None, caplog):
    config = ResNetConfig(**TINY_RESNET, problem_type=task)
    set_class_names(config, ["cat", "dog", "emu"])
    assert config.problem_type == task and not caplog.records


def test_the_classes_of_an_old_timm_head_do_not_outlive_it(tmp_path: Path):
    """timm's checkpoints list their classes beside the figures of their images, in either place."""
    old = {"label_names": ["old a", "old b"], "label_descriptions": {"old a": "x"}, "num_classes": 2}
    config = type(tiny_timm(2).config).from_dict(
        {"architecture": "test_resnet", **old, "pretrained_cfg": {**old, "label_offset": 1, "input_size": [3, 32, 32]}}
    )
    assert config.id2label == {0: "old a", 1: "old b"}
    set_class_names(config, ["cat", "dog", "emu"])
    model = tiny_timm(3)
    model.config = config
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["label_names"] == ["cat", "dog", "emu"] and saved["num_classes"] == 3
    assert "label_descriptions" not in saved and saved["pretrained_cfg"] == {"input_size": [3, 32, 32]}
    assert type(config).from_pretrained(tmp_path).id2label == {0: "cat", 1: "dog", 2: "emu"}
