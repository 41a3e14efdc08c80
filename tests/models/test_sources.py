"""Sources of a network: resolved once, their weights handed over once, and a model object in place of a name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError
from hf_finetune.models import checkpoint as checkpoint_module
from hf_finetune.models.checkpoint import Checkpoint
from hf_finetune.models.foreign import checkpoint as foreign_checkpoint
from hf_finetune.models.head import class_names, set_class_names
from hf_finetune.models.lenet5 import LeNet5Config, LeNet5ForImageClassification
from hf_finetune.models.load import LoadedModel, load_config, load_model, load_trained, open_source
from hf_finetune.models.model_object import check_given_model
from hf_finetune.models.prepare import prepare_model
from hf_finetune.models.processor import describe, load_image_processor
from hf_finetune.models.source import Architecture
from tests.helpers.tiny import TINY_RESNET, tiny_timm

NAMES = ["cat", "dog", "emu"]
TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def classifier(names: list[str] = NAMES) -> ViTForImageClassification:
    torch.manual_seed(0)
    config = ViTConfig(**TINY_VIT, image_size=32, patch_size=8)
    set_class_names(config, names)
    return ViTForImageClassification(config)


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# ---- resolved once ----


def test_each_choice_of_a_recipe_has_its_source(tmp_path: Path):
    classifier().save_pretrained(tmp_path)
    folder = open_source(ModelArguments(model_name_or_path=str(tmp_path), model_revision="v1", pretrained=False))
    assert folder == Checkpoint(str(tmp_path), str(tmp_path), revision="v1", pretrained=False)
    assert open_source(folder) is folder
    embedded = open_source(ModelArguments(model_name_or_path="resnet_small_cifar10"))
    assert isinstance(embedded, Checkpoint) and Path(embedded.location).is_dir()
    assert isinstance(open_source(ModelArguments(model_type="lenet5")), Architecture)
    with pytest.raises(UserError, match="There is no model; use --model_name_or_path"):
        open_source(ModelArguments())
    with pytest.raises(UserError, match="exclude each other; keep one and set the other to null"):
        open_source(ModelArguments(model_type="lenet5", model_name_or_path="resnet_small_cifar10"))


def test_the_hub_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(checkpoint_module, "_hub_is_silent", lambda *words: bool(asked.append(words)) or True)
    arguments = ModelArguments(model_name_or_path="someone/something", model_revision="v2")
    source = open_source(arguments)
    assert source == Checkpoint("someone/something", "someone/something", "v2", local_files_only=True)
    with pytest.raises(UserError, match="the Hub at .* cannot be reached"):
        load_config(source, NAMES)
    assert source.load_processor() is None
    assert asked == [("someone/something", "v2")]


def test_a_file_is_read_once_and_its_tensors_are_handed_over_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    reads: list[str] = []
    read = foreign_checkpoint.load_foreign

    def counted(source: str, sha256: str | None):
        reads.append(source)
        return read(source, sha256)

    monkeypatch.setattr(foreign_checkpoint, "load_foreign", counted)
    source = open_source(ModelArguments(load_from=str(tmp_path / "resnet18.pth")))
    config = load_config(source, NAMES)
    load_image_processor(source, config, DataArguments())
    first = load_model(source, config, NAMES, seed=0).model
    assert reads == [str(tmp_path / "resnet18.pth")]
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    again = load_model(source, config, NAMES, seed=0).model  # from the file again, not from the trained tensors
    kernel = again.state_dict()["resnet.embedder.embedder.convolution.weight"]
    assert torch.equal(kernel, network.conv1.weight) and len(reads) == 2


# ---- a model object ----


def adopt(model: PreTrainedModel, names: Sequence[str], seed: int) -> LoadedModel:
    """Prepare a network that the caller has built for a dataset's classes, as a run does."""
    source = open_source(model)
    return load_model(source, load_config(source, names), names, seed)


def test_a_model_object_with_the_datasets_classes_stays_as_it_is():
    model = classifier()
    before = tensors(model)
    loaded = adopt(model, NAMES, seed=0)
    assert loaded.model is model and not loaded.initialized
    assert loaded.report == f"ViTForImageClassification: {len(before)} tensors reused, the head kept."
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (classifier, {"classifier.weight", "classifier.bias"}),
        (lambda: tiny_timm(3), {"timm_model.fc.weight", "timm_model.fc.bias"}),
        (
            lambda: LeNet5ForImageClassification(LeNet5Config(num_labels=3)),
            {"classifier.2.weight", "classifier.2.bias"},
        ),
    ],
    ids=["vit", "timm", "lenet5"],
)
def test_another_number_of_classes_replaces_the_last_layer_alone(make, head: set[str]):
    model = make()
    before, hooked = tensors(model), []
    next(model.children()).register_forward_hook(lambda *_: hooked.append(1))
    names = ["a", "b", "c", "d", "e"]
    loaded = adopt(model, names, seed=3)
    assert loaded.model is model and loaded.initialized == head
    after = tensors(model)
    assert {name for name in before if before[name].shape != after[name].shape} == head
    assert all(torch.equal(before[name], after[name]) for name in set(before) - head)
    assert class_names(model.config) == names and getattr(model.base_model, "config", model.config) is model.config
    side = 32
    channels = getattr(model.config, "num_channels", 3)
    assert model(pixel_values=torch.rand(2, channels, side, side)).logits.shape == (2, 5) and hooked
    again = make()
    torch.rand(7)  # whatever was drawn before
    adopt(again, names, seed=3)
    assert all(torch.equal(again.state_dict()[name], after[name]) for name in head)


def test_as_many_other_classes_initialize_the_head():
    model = classifier(["x", "y", "z"])
    before = tensors(model)
    loaded = adopt(model, NAMES, seed=0)
    assert loaded.initialized == {"classifier.weight", "classifier.bias"}
    assert not torch.equal(before["classifier.weight"], model.classifier.weight)
    assert class_names(model.config) == NAMES


def test_half_precision_becomes_float32():
    model = adopt(classifier().bfloat16(), NAMES, seed=0).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_backbone_is_no_classifier():
    with pytest.raises(UserError, match="model is ViTModel, which has no head for classes; use a ViTForImageClass"):
        open_source(ViTModel(ViTConfig(**TINY_VIT)))
    with pytest.raises(UserError, match=r"model is Linear; use a name, a folder or a transformers\.PreTrainedModel"):
        check_given_model(nn.Linear(1, 1))


class Stubborn(PreTrainedModel):
    """A caller's own class whose head does not follow its configuration."""

    config_class = PreTrainedConfig
    base_model_prefix = "body"

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 7)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.head(self.body(pixel_values)))


class Demanding(Stubborn):
    """One that is not built from its configuration alone."""

    def __init__(self, config: PreTrainedConfig, width: int) -> None:
        super().__init__(config)


@pytest.mark.parametrize("make", [lambda: Stubborn(PreTrainedConfig()), lambda: Demanding(PreTrainedConfig(), 4)])
def test_a_head_that_cannot_be_replaced_is_refused_and_the_model_stays_as_it_was(make):
    model = make()
    config = copy.deepcopy(model.config)
    with pytest.raises(UserError, match=r"^model: .*build the model with a head for 3 classes \(num_labels=3\)\.$"):
        adopt(model, NAMES, seed=0)
    assert class_names(model.config) == class_names(config) == ["LABEL_0", "LABEL_1"]


def test_the_image_processor_of_a_model_object_is_that_of_its_checkpoint(tmp_path: Path):
    model = classifier()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 48, "width": 48}, image_mean=[0.1] * 3).save_pretrained(tmp_path)
    source = open_source(ViTForImageClassification.from_pretrained(tmp_path))
    processor = load_image_processor(source, source.load_config())
    assert isinstance(processor, ViTImageProcessor) and describe(processor).image_size == 48
    built = open_source(model)  # not loaded from anywhere: ImageNet's figures at the size that it is built for
    figures = describe(load_image_processor(built, built.load_config()))
    assert (figures.image_size, figures.mean[0]) == (32, pytest.approx(123.675))


# ---- prepared for training ----


def test_batch_norm_is_synchronized_before_it_is_frozen():
    model = ResNetForImageClassification(ResNetConfig(**TINY_RESNET))
    arguments = ModelArguments(freeze=["backbone"], head_init="probe")
    source = open_source(model)
    prepared = prepare_model(
        source, load_config(source, NAMES), arguments, NAMES, seed=0, sides=(32, 32), sync_batchnorm=True
    )
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert prepared.loaded.model is model and prepared.frozen.backbone
    model.train()
    assert not any(norm.training for norm in norms)
    assert [line.split(":")[0] for line in prepared.report] == ["Model", "Frozen"]


def test_a_head_that_cannot_be_probed_is_refused_when_the_model_is_prepared():
    source = open_source(ModelArguments(model_type="lenet5"))
    config = load_config(source, NAMES)
    with pytest.raises(UserError, match="head_init: probe needs a head with one linear layer"):
        prepare_model(
            source, config, ModelArguments(model_type="lenet5", head_init="probe"), NAMES, seed=0, sides=(32, 32)
        )


def test_what_the_caller_has_frozen_does_not_count_as_frozen_by_the_recipe():
    """Its BatchNorm and dropout are in training mode, so its features differ from epoch to epoch."""
    model = classifier()
    model.vit.requires_grad_(False)
    source = open_source(model)
    assert not prepare_model(
        source, load_config(source, NAMES), ModelArguments(), NAMES, seed=0, sides=(32, 32)
    ).frozen.backbone


def test_a_trained_model_object_is_loaded_as_it_is():
    model = classifier().train()
    assert load_trained(open_source(model)) is model and not model.training


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("deit", {**TINY_VIT, "image_size": 32, "patch_size": 8}),
        (
            "levit",
            {"image_size": 32, "hidden_sizes": [16, 32, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
             "key_dim": [8, 8, 8]},
        ),
    ],
)  # fmt: skip
def test_a_family_with_several_classifiers_is_built_from_scratch(family: str, settings: dict[str, object]):
    source = Architecture(family, settings)
    loaded = load_model(source, load_config(source, NAMES), NAMES, seed=0)
    assert type(loaded.model) is MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(loaded.model.config)][0]
    assert loaded.model.config.num_labels == 3


def test_a_cvt_that_transformers_cannot_build_is_told_the_depths_that_it_can():
    settings = {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2]}
    with pytest.raises(UserError, match=r"depth is \[1, 1, 1\], but .* use depth: \[1, 2, 10\]\.$"):
        Architecture("cvt", {**settings, "depth": [1, 1, 1]}).load_weights(
            Architecture("cvt", {**settings, "depth": [1, 1, 1]}).load_config()
        )
    source = Architecture("cvt", {**settings, "depth": [1, 2, 3]})
    assert source.load_weights(source.load_config()).from_scratch
