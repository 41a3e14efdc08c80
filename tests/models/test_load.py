"""Loading: what is reused, what is new, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTModel,
)

from hf_finetune.config.checkpoint_names import resolve_checkpoint
from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError
from hf_finetune.models.checkpoint import Checkpoint
from hf_finetune.models.head import head_parameter_names
from hf_finetune.models.load import check_num_labels, load_config, load_model, load_trained
from tests.helpers.tiny import TINY_RESNET

NAMES = ["cat", "dog", "emu"]


@pytest.fixture
def checkpoint(tmp_path) -> ModelArguments:
    torch.manual_seed(0)
    config = ResNetConfig(**TINY_RESNET, id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)})
    ResNetForImageClassification(config).save_pretrained(tmp_path / "checkpoint")
    return ModelArguments(model_name_or_path=str(tmp_path / "checkpoint"))


def _load(arguments: ModelArguments, names: list[str], seed: int = 0):
    return load_model(arguments, load_config(arguments, names), names, seed)


def test_the_same_classes_keep_their_head(checkpoint):
    loaded = _load(checkpoint, NAMES)
    assert not loaded.initialized and "the head kept" in loaded.report
    saved = load_file(f"{checkpoint.model_name_or_path}/model.safetensors")
    assert torch.equal(loaded.model.classifier[1].weight, saved["classifier.1.weight"])


@pytest.mark.parametrize("names", [["ant", "bee", "cow"], ["dog", "cat", "emu"], ["cat", "dog"], ["a", "b", "c", "d"]])
def test_other_classes_get_a_new_head_on_the_same_backbone(checkpoint, names):
    loaded = _load(checkpoint, names)
    saved = load_file(f"{checkpoint.model_name_or_path}/model.safetensors")
    assert loaded.initialized == {"classifier.1.weight", "classifier.1.bias"}
    assert f"2 of the head initialized for {len(names)} classes" in loaded.report
    state = loaded.model.state_dict()
    for name in saved:
        if name not in loaded.initialized:
            assert torch.equal(state[name], saved[name]), name
    assert state["classifier.1.weight"].shape == (len(names), 16)
    if len(names) == 3:
        assert not torch.equal(state["classifier.1.weight"], saved["classifier.1.weight"])
    assert loaded.model.config.id2label == dict(enumerate(names))


@pytest.mark.parametrize("names", [["ant", "bee", "cow"], ["a", "b", "c", "d"]])
def test_the_new_head_depends_on_the_seed_alone(checkpoint, names):
    first = _load(checkpoint, names, seed=5).model.classifier[1].weight
    torch.rand(17)  # whatever the process drew before
    assert torch.equal(first, _load(checkpoint, names, seed=5).model.classifier[1].weight)
    assert not torch.equal(first, _load(checkpoint, names, seed=6).model.classifier[1].weight)


def test_random_weights_on_the_checkpoints_architecture(checkpoint):
    checkpoint.pretrained = False
    loaded = _load(checkpoint, NAMES, seed=1)
    saved = load_file(f"{checkpoint.model_name_or_path}/model.safetensors")
    assert loaded.initialized == set(saved)
    kernel = "resnet.embedder.embedder.convolution.weight"
    assert not torch.equal(loaded.model.state_dict()[kernel], saved[kernel])


def test_a_backbone_without_head_is_a_start(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    loaded = _load(ModelArguments(model_name_or_path=str(tmp_path)), NAMES)
    assert loaded.initialized == {"classifier.weight", "classifier.bias"}


def test_a_backbone_of_another_shape_is_refused(checkpoint, tmp_path):
    config = tmp_path / "checkpoint" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_sizes": [8, 32]}))
    with pytest.raises(UserError, match=r"tensors besides the head are missing or have another shape"):
        _load(checkpoint, NAMES)


def test_a_backbone_with_a_missing_tensor_is_refused(checkpoint, tmp_path):
    file = tmp_path / "checkpoint" / "model.safetensors"
    weights = load_file(file)
    del weights["resnet.embedder.embedder.convolution.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"the first is resnet.embedder.embedder.convolution.weight"):
        _load(checkpoint, NAMES)


def test_a_text_model_is_no_image_classifier(tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=30)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a bert model, which is not an image classifier"):
        load_config(ModelArguments(model_name_or_path=str(tmp_path)), NAMES)


def test_a_pickle_is_never_read(checkpoint, tmp_path):
    (tmp_path / "checkpoint" / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, tmp_path / "checkpoint" / "pytorch_model.bin")
    with pytest.raises(UserError, match="has its weights as a pickle"):
        _load(checkpoint, NAMES)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run-401", "Error no file named model.safetensors found in directory run-401", "does not hold a whole"),
        ("gated repo", "Error no file named model.safetensors found in directory gated repo", "does not hold a whole"),
        ("me/kept-401", "There was a specific connection error:\n500 Server Error for me/kept-401", "no such model"),
        ("me/kept", "You are trying to access a gated repo.\nMake sure to have access to it", "is private or gated"),
        ("me/kept", "There was a specific connection error:\n401 Client Error", "is private or gated"),
    ],
)
def test_a_name_with_401_or_gated_in_it_is_not_gated(name, text, message, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(text)

    monkeypatch.chdir(tmp_path)
    if "/" not in name:
        (tmp_path / name).mkdir()
    for reader in (AutoConfig, AutoModelForImageClassification):
        monkeypatch.setattr(reader, "from_pretrained", fail)
    with pytest.raises(UserError, match=message):
        Checkpoint(name, name).load_weights(ResNetConfig())


def test_names_that_lead_nowhere():
    with pytest.raises(UserError, match='there is no checkpoint "./nowhere"'):
        resolve_checkpoint("./nowhere")
    with pytest.raises(UserError, match='no architecture "resnett". Did you mean "resnet"?'):
        load_config(ModelArguments(model_type="resnett"), NAMES)
    assert resolve_checkpoint("microsoft/resnet-50") == "microsoft/resnet-50"


def test_the_stated_number_of_classes_must_be_the_datasets():
    check_num_labels(ModelArguments(num_labels=3), NAMES)
    with pytest.raises(UserError, match=r"num_labels is 10 but the dataset has 3 classes \(cat, dog, emu\)"):
        check_num_labels(ModelArguments(num_labels=10), NAMES)


def test_a_trained_model_is_loaded_as_it_is(checkpoint, tmp_path):
    assert load_trained(checkpoint).config.id2label == dict(enumerate(NAMES))
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ViTModel(config).save_pretrained(tmp_path / "headless")
    with pytest.raises(UserError, match="has no trained head"):
        load_trained(ModelArguments(model_name_or_path=str(tmp_path / "headless")))


def test_the_head_of_several_families():
    resnet = ResNetForImageClassification(ResNetConfig(**TINY_RESNET))
    assert head_parameter_names(resnet) == {"classifier.1.weight", "classifier.1.bias"}


def test_the_head_of_a_timm_model(tmp_path):
    pytest.importorskip("timm")
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    config = TimmWrapperConfig(architecture="test_resnet", num_labels=5)
    model = TimmWrapperForImageClassification(config)
    assert head_parameter_names(model) == {"timm_model.fc.weight", "timm_model.fc.bias"}
    model.save_pretrained(tmp_path)
    loaded = _load(ModelArguments(model_name_or_path=str(tmp_path)), NAMES)
    assert loaded.initialized == {"timm_model.fc.weight", "timm_model.fc.bias"}
    assert loaded.model.timm_model.fc.out_features == 3
