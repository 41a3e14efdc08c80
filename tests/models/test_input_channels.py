"""Pretrained networks for other numbers of channels: timm's rule, and what it promises of gray images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError
from hf_finetune.models.channels import channels_of, set_channels
from hf_finetune.models.input_channels import adapt_kernel
from hf_finetune.models.load import LoadedModel, load_config, load_model
from hf_finetune.models.source import initialize
from tests.helpers.families import FAMILIES
from tests.helpers.tiny import tiny_timm

NAMES = ["cat", "dog", "emu"]
CLASSES: dict[str, Any] = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
TRIED = ("resnet", "vit", "convnext", "swin", "regnet", "beit", "dinov2", "clip")


def _save(folder: Path, family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "timm":
        model = tiny_timm(3, **CLASSES)
    else:
        config = AutoConfig.for_model(family, **CLASSES, **FAMILIES[family])
        model = initialize(config, trust_remote_code=False).model
    model.save_pretrained(folder)
    return model.eval()


def _load(folder: Path, channels: int) -> LoadedModel:
    arguments = ModelArguments(model_name_or_path=str(folder))
    config = load_config(arguments, NAMES)
    set_channels(config, channels)
    config.image_channels = channels
    return load_model(arguments, config, NAMES, seed=0)


def _logits(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixels).logits


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 13])
def test_kernels_are_timms(channels: int) -> None:
    manipulate = pytest.importorskip("timm.models")
    kernel = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapt_kernel(kernel, channels), manipulate.adapt_input_conv(channels, kernel.clone()))


@pytest.mark.parametrize("family", [*TRIED, "timm"])
def test_a_gray_image_gives_what_it_gave_in_rgb(family: str, tmp_path: Path) -> None:
    own = _save(tmp_path, family)
    side = 64 if family == "timm" else 32
    gray = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(1))
    wanted = _logits(own, gray.expand(-1, 3, -1, -1))
    for channels in (1, 6):  # of a multiple of three, each of the three kernels has the same weight
        loaded = _load(tmp_path, channels)
        assert channels_of(loaded.model.config) == channels and not loaded.initialized
        torch.testing.assert_close(_logits(loaded.model, gray.expand(-1, channels, -1, -1)), wanted)
    assert f"adapted from 3 to {channels} channels" in loaded.report


def test_thirteen_channels_weigh_as_the_rule_says(tmp_path: Path) -> None:
    own = _save(tmp_path, "vit")
    images = torch.randn(2, 13, 32, 32, generator=torch.Generator().manual_seed(1))
    as_rgb = torch.stack([images[:, first::3].sum(dim=1) * 3 / 13 for first in range(3)], dim=1)
    size = own.config.image_size
    images, as_rgb = (torch.nn.functional.interpolate(each, size=(size, size)) for each in (images, as_rgb))
    torch.testing.assert_close(_logits(_load(tmp_path, 13).model, images), _logits(own, as_rgb))


def test_a_network_of_thirteen_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    _save(tmp_path, "resnet")
    model = _load(tmp_path, 13).model
    model.save_pretrained(tmp_path / "saved")
    again = _load(tmp_path / "saved", 13)
    assert "adapted" not in again.report
    images = torch.randn(1, 13, 32, 32)
    assert torch.equal(_logits(again.model, images), _logits(model, images))


def test_a_network_that_sees_rgb_is_refused_other_channels(tmp_path: Path) -> None:
    _save(tmp_path, "resnet")
    _load(tmp_path, 4).model.save_pretrained(tmp_path / "saved")
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "saved"))
    config = load_config(arguments, NAMES)
    config.image_channels = None
    with pytest.raises(UserError, match="takes 4 channels, and images are read as RGB"):
        load_model(arguments, config, NAMES, seed=0)
