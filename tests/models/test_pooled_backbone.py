"""Vision backbones without a classifier of their own: a linear head on what they pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedModel,
    ViTForImageClassification,
    ViTMAEForPreTraining,
    pipeline,
)

from hf_finetune.api import evaluate, export, finetune
from hf_finetune.errors import UserError
from hf_finetune.models.checkpoint import open_checkpoint
from hf_finetune.models.load import load_config, load_model, load_trained
from hf_finetune.models.pooled_backbone import PooledBackboneForImageClassification, pooled
from hf_finetune.models.source import Architecture
from tests.helpers.tiny import TINY_RECIPE

NAMES = ["a", "b", "c"]
TINY = {
    "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "dinov3_vit": {**TINY, "num_register_tokens": 2},
    "dinov3_convnext": {"hidden_sizes": [4, 8, 8, 16], "depths": [1, 1, 1, 1]},
    "clip_vision_model": TINY,
    "siglip_vision_model": TINY,
    "aimv2_vision_model": TINY,
    "radio": TINY,
}


def backbone(family: str, **settings: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    network: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(family, **FAMILIES[family], **settings))
    return network.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbones_checkpoint_is_loaded_whole_with_a_new_head(family: str, tmp_path: Path):
    network = backbone(family)
    network.save_pretrained(tmp_path)
    source = open_checkpoint(str(tmp_path))
    loaded = load_model(source, load_config(source, NAMES), NAMES, seed=0)
    assert isinstance(loaded.model, PooledBackboneForImageClassification)
    assert loaded.initialized == {"classifier.weight", "classifier.bias"}
    assert f"{len(network.state_dict())} tensors reused, 2 of the head initialized for 3 classes" in loaded.report
    images = torch.rand(2, 3, 32, 32)
    model = loaded.model.eval()
    expected = model.classifier(pooled(network(pixel_values=images)))
    torch.testing.assert_close(model(images).logits, expected)
    model.save_pretrained(tmp_path / "saved")
    again = load_trained(open_checkpoint(str(tmp_path / "saved")))
    assert torch.equal(again(images).logits, model(images).logits)


def test_pooling_is_the_backbones_own_or_a_mean():
    class Output:
        pooler_output: torch.Tensor | None = torch.rand(2, 4, 1, 1)
        last_hidden_state = torch.rand(2, 5, 4)

    output = Output()
    assert torch.equal(pooled(output), output.pooler_output[:, :, 0, 0])  # type: ignore[index]
    output.pooler_output = None
    torch.testing.assert_close(pooled(output), output.last_hidden_state.sum(1) / 5)
    output.last_hidden_state = torch.rand(2, 4, 3, 3)
    torch.testing.assert_close(pooled(output), output.last_hidden_state.sum((2, 3)) / 9)


def test_the_encoder_of_mae_is_a_vit(tmp_path: Path):
    config = AutoConfig.for_model("vit_mae", **TINY, decoder_hidden_size=16, decoder_num_hidden_layers=1,
                                  decoder_num_attention_heads=2, decoder_intermediate_size=16)  # fmt: skip
    mae = ViTMAEForPreTraining(config)
    mae.save_pretrained(tmp_path)
    source = open_checkpoint(str(tmp_path))
    loaded = load_model(source, load_config(source, NAMES), NAMES, seed=0)
    assert isinstance(loaded.model, ViTForImageClassification)
    assert loaded.initialized == {"classifier.weight", "classifier.bias"}
    weights = mae.vit.state_dict()
    assert all(torch.equal(own, weights[name]) for name, own in loaded.model.vit.state_dict().items())


def test_position_embeddings_follow_the_image_size(tmp_path: Path):
    from hf_finetune.models.image_size import match_image_size

    backbone("clip_vision_model").save_pretrained(tmp_path)
    source = open_checkpoint(str(tmp_path))
    config = load_config(source, NAMES)
    match_image_size(config, (64, 64), {})
    loaded = load_model(source, config, NAMES, seed=0)
    assert "from a grid of 4 x 4 to 8 x 8" in loaded.report
    assert loaded.model(torch.rand(1, 3, 64, 64)).logits.shape == (1, 3)
    with pytest.raises(UserError, match="clip_vision_model takes squares; use --image_size 64"):
        match_image_size(load_config(source, NAMES), (64, 32), {})


def test_a_language_model_is_no_vision_backbone():
    with pytest.raises(UserError, match="which is not an image classifier; .*, or a vision backbone"):
        Architecture("bert", {}).load_config()
    with pytest.raises(UserError, match='dinov3_vit has no setting "hiden_size".*hidden_size'):
        Architecture("dinov3_vit", {"hiden_size": 16}).load_config()


@pytest.mark.slow
def test_what_was_trained_is_what_pipeline_and_the_export_give(image_folder: Path, tmp_path: Path):
    backbone("dinov3_vit").save_pretrained(tmp_path / "backbone")
    recipe = {key: value for key, value in TINY_RECIPE.items() if not key.startswith("model_")}
    output = tmp_path / "run"
    result = finetune(
        {**recipe, "model_name_or_path": str(tmp_path / "backbone"), "head_init": "probe", "layer_decay": 0.8},
        dataset=str(image_folder), output_dir=str(output), image_size=32, learning_rate=0.01, train_transforms=None,
    )  # fmt: skip
    assert (output / "pooled_backbone.py").is_file()
    classify = pipeline("image-classification", str(output), trust_remote_code=True)
    images = sorted((image_folder / "test").glob("*/*"))
    right = [classify(str(path))[0]["label"] == path.parent.name for path in images]
    assert sum(right) / len(right) == pytest.approx(result.metrics["test_accuracy"])
    assert evaluate(str(output), dataset=str(image_folder)).metrics["accuracy"] == pytest.approx(
        sum(right) / len(right)
    )
    assert export(str(output)).is_file()
