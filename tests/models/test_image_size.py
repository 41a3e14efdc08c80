"""Networks with position embeddings at other image sizes than that of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError
from hf_finetune.models.image_size import match_image_size
from hf_finetune.models.load import LoadedModel, load_config, load_model
from hf_finetune.models.source import initialize
from tests.helpers.families import FAMILIES

NAMES = ["cat", "dog", "emu"]
CLASSES: dict[str, Any] = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
HIERA = {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2}


def _save(folder: Path, family: str) -> PreTrainedModel:
    """Save a tiny network of a family of Transformers, or of an architecture of timm, and return it."""
    torch.manual_seed(0)
    if family in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224", "levit_128s"):
        from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

        sizes = SMALL if "vit_tiny" in family or "beit" in family else {}
        sizes = {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2]} if "swin" in family else sizes
        figures = {"input_size": [3, 224, 224], "fixed_input_size": True}
        model: PreTrainedModel = TimmWrapperForImageClassification(
            TimmWrapperConfig(architecture=family, model_args=sizes, pretrained_cfg=figures, **CLASSES)
        )
    else:
        sizes = HIERA if family == "hiera" else FAMILIES[family]
        model = initialize(AutoConfig.for_model(family, **CLASSES, **sizes), trust_remote_code=False).model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos" in name:
                parameter.normal_()
    model.save_pretrained(folder)
    return model.eval()


def _load(folder: Path, sides: tuple[int, int]) -> LoadedModel:
    arguments = ModelArguments(model_name_or_path=str(folder))
    config = load_config(arguments, NAMES)
    match_image_size(config, sides, {})
    return load_model(arguments, config, NAMES, seed=0)


def _logits(model: PreTrainedModel, pixels: torch.Tensor, **keywords: bool) -> torch.Tensor:
    with torch.no_grad():
        return model(pixels, **keywords).logits


@pytest.mark.parametrize("sides", [(48, 48), (16, 16), (48, 16)])
@pytest.mark.parametrize("family", ["vit", "deit", "vit_msn", "ijepa", "siglip"])
def test_the_logits_are_those_of_transformers_own_interpolation(tmp_path, family, sides):
    if family == "siglip" and sides[0] != sides[1]:
        pytest.skip("takes squares")
    own = _save(tmp_path, family)
    loaded = _load(tmp_path, sides)
    pixels = torch.randn(2, 3, *sides)
    torch.testing.assert_close(_logits(loaded.model, pixels), _logits(own, pixels, interpolate_pos_encoding=True))
    assert not loaded.initialized
    grid = f"a grid of 4 x 4 to {sides[0] // 8} x {sides[1] // 8}."
    assert loaded.report.endswith(f"from images of 32 x 32 pixels to {sides[0]} x {sides[1]}: from {grid}")

    loaded.model.save_pretrained(tmp_path / "saved")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(_logits(again, pixels), _logits(loaded.model, pixels))
    assert "interpolated" not in _load(tmp_path / "saved", sides).report


@pytest.mark.parametrize(
    ("family", "name", "sides", "old", "new"),
    [
        ("clip", "vision_model.embeddings.position_embedding.weight", (48, 48), (4, 4), (6, 6)),
        ("hiera", "hiera.embeddings.position_embeddings", (96, 96), (16, 16), (24, 24)),
        ("pvt", "pvt.encoder.patch_embeddings.0.position_embeddings", (64, 64), (8, 8), (16, 16)),
        ("pvt", "pvt.encoder.patch_embeddings.3.position_embeddings", (64, 64), (1, 1), (2, 2)),
    ],
)
def test_the_grid_is_interpolated_and_the_class_token_kept(tmp_path, family, name, sides, old, new):
    before = _save(tmp_path, family).state_dict()[name].flatten(0, -2)
    loaded = _load(tmp_path, sides)
    after = loaded.model.state_dict()[name].flatten(0, -2)
    tokens = len(before) - old[0] * old[1]
    grid = before[tokens:].T.reshape(1, -1, *old)
    expected = interpolate(grid, new, mode="bicubic", align_corners=False).flatten(2)[0].T
    torch.testing.assert_close(after[tokens:], expected)
    assert torch.equal(after[:tokens], before[:tokens])
    assert _logits(loaded.model, torch.randn(2, 3, *sides)).shape == (2, 3)
    assert f"{old[0]} x {old[1]} to {new[0]} x {new[1]}" in loaded.report


@pytest.mark.filterwarnings("ignore:torch.searchsorted|Using a non-tuple sequence")  # timm's own
@pytest.mark.parametrize("family", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224"])
def test_a_network_of_timm_is_resized_as_timm_does(tmp_path, family):
    pytest.importorskip("timm")
    own: Any = _save(tmp_path, family)
    loaded = _load(tmp_path, (64, 96))
    pixels = torch.randn(2, 3, 64, 96)
    window: dict[str, Any] = {"window_size": (7, 7)} if "swin" in family else {}
    own.timm_model.set_input_size(img_size=(64, 96), **window)
    torch.testing.assert_close(_logits(loaded.model, pixels), _logits(own, pixels))
    assert ("from a grid of 14 x 14 to 4 x 6." in loaded.report) == ("swin" not in family)
    loaded.model.save_pretrained(tmp_path / "saved")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(_logits(again, pixels), _logits(loaded.model, pixels))


@pytest.mark.parametrize("family", ["vit", "clip", "swin", "beit", "dinov2", "convnext", "vit_tiny_patch16_224"])
def test_weights_stay_as_they_are_where_nothing_has_to_change(tmp_path, family):
    own = _save(tmp_path, family)
    takes_any = family in ("swin", "beit", "dinov2", "convnext")
    sides = (64, 64) if takes_any else (224, 224) if "tiny" in family else (32, 32)
    loaded = _load(tmp_path, sides)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in own.state_dict().items())
    assert "interpolated" not in loaded.report
    for key in ("image_size", "model_args"):
        assert getattr(loaded.model.config, key, None) == getattr(own.config, key, None)
    assert _logits(loaded.model, torch.randn(2, 3, *sides)).shape == (2, 3)


@pytest.mark.parametrize(
    ("family", "sides", "line"),
    [
        ("vit", (50, 50), "image_size is 50 x 50, which the network's patches of 8 pixels do not divide; use"
         " --image_size 48 or 56."),
        ("vit_tiny_patch16_224", (50, 50), "image_size is 50 x 50, which the network's patches of 16 pixels do not"),
        ("clip", (48, 32), "image_size is 48 x 32, but clip takes squares; use --image_size 48."),
        ("levit", (64, 64), "image_size is 64 x 64, but levit with these weights takes 32 x 32 only (its levit."),
        ("levit_128s", (448, 448), "but levit_128s with these weights takes 224 x 224 only (its timm_model."),
    ],
)  # fmt: skip
def test_a_size_that_cannot_be_had_is_refused_in_one_line(tmp_path, family, sides, line):
    if family in ("vit_tiny_patch16_224", "levit_128s"):
        pytest.importorskip("timm")
    _save(tmp_path, family)
    with pytest.raises(UserError) as caught:
        _load(tmp_path, sides)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_size_among_the_settings_of_the_network_counts(tmp_path):
    _save(tmp_path, "vit")
    arguments = ModelArguments(model_name_or_path=str(tmp_path), model_config={"image_size": 48})
    config = load_config(arguments, NAMES)
    match_image_size(config, (64, 64), arguments.model_config or {})
    loaded = load_model(arguments, config, NAMES, seed=0)
    assert loaded.model.config.image_size == 48 and "4 x 4 to 6 x 6" in loaded.report
