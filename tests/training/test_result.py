"""What the folder of a run says of its origin: the base checkpoint's license, or the one that is written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from transformers import ResNetConfig, ResNetForImageClassification

from hf_finetune import finetune
from hf_finetune.training.result import license_of
from tests.helpers.tiny import TINY_RESNET, write_recipe


def test_the_license_is_that_of_the_base_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert license_of("resnet_small_cifar10") == "apache-2.0"
    assert license_of(str(tmp_path)) is None  # a folder without card
    (tmp_path / "README.md").write_text("no metadata")
    assert license_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert license_of(str(tmp_path)) == "mit"
    info = SimpleNamespace(card_data=ModelCardData(license="cc-by-4.0"))
    monkeypatch.setattr(HfApi, "model_info", lambda self, name, **settings: info)
    assert license_of("me/flowers") == "cc-by-4.0"
    monkeypatch.setattr(HfApi, "model_info", lambda self, name, **settings: 1 / 0)  # as good as no network
    assert license_of("me/flowers") is None


@pytest.mark.parametrize(("written", "license"), [({}, "mit"), ({"license": "apache-2.0"}, "apache-2.0")])
def test_the_card_states_the_license_and_where_nothing_lies(image_folder, tmp_path, written, license):
    torch.manual_seed(0)
    base = tmp_path / "base"
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=9)).save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    recipe = write_recipe(tmp_path, model_type=None, model_config=None, model_name_or_path=str(base))
    output = tmp_path / "output"
    finetune(str(recipe), dataset=str(image_folder), output_dir=str(output), num_train_epochs=1, **written)
    card = ModelCard.load(output / "README.md")
    assert card.data.license == license and card.data.base_model is None
    assert "the weights of .../base, trained on" in card.text and f"dataset: '.../{image_folder.name}'" in card.text
    assert str(tmp_path) not in card.content and str(image_folder) not in card.content
    assert f"dataset: {image_folder}\n" in (output / "recipe.yaml").read_text()  # on disk it is still what was run


def test_a_start_from_random_weights_has_no_license_of_its_own(finished_run):
    assert ModelCard.load(finished_run / "README.md").data.license is None
