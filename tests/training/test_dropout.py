"""Runs with `drop_path` and `head_dropout`: with kept features, with a probed head, resumed, and loaded elsewhere."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, TrainerCallback

from hf_finetune import finetune
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.models.dropout import drop_features
from hf_finetune.models.freeze import freeze_modules
from hf_finetune.training.frozen.features import train_on_features
from tests.helpers.families import make_family
from tests.helpers.networks import make_model
from tests.helpers.tiny import write_recipe
from tests.helpers.trainers import make_trainer

SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_kept_features_are_dropped_as_without(tmp_path: Path, datasets_cache: Path, family: str) -> None:
    heads = []
    for kept, rate in ((False, 0.5), (True, 0.5), (False, 0.0)):
        model = make_model(family)
        freeze_modules(model, ["backbone"])
        drop_features(model, rate)
        trainer = make_trainer(tmp_path / f"{kept}-{rate}", model, num_train_epochs=2)
        splits = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
        if kept:
            assert train_on_features(trainer, splits, []) is not splits
        trainer.train()
        heads.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(heads[0], heads[1], atol=1e-4, rtol=1e-3)
    assert (heads[0] - heads[2]).abs().max() > 1e-3


class StopAfterAStep(TrainerCallback):
    """Sends SIGTERM to this process."""

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_resumed_run_is_exact_and_its_folder_has_nothing_of_the_head(image_folder: Path, tmp_path: Path) -> None:
    changes = {"model_type": "swin", "model_config": SWIN, "image_size": 16, "num_train_epochs": 2}
    recipe = write_recipe(tmp_path, **changes, drop_path=0.5, head_dropout=0.3)
    whole = finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / "whole"))
    resumed = {"dataset": str(image_folder), "output_dir": str(tmp_path / "resumed")}
    with pytest.raises(Interrupted):
        finetune(recipe, callbacks=[StopAfterAStep()], **resumed)
    finetune(recipe, **resumed)
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "resumed" / "model.safetensors").items():
        assert torch.equal(weights[name], tensor), name

    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["drop_path_rate"] == 0.5 and not any("head" in key for key in config if key != "num_heads")
    again, pixels = AutoModelForImageClassification.from_pretrained(tmp_path / "whole"), torch.randn(2, 3, 16, 16)
    with torch.no_grad():  # the trained network has its channels last, and rounds elsewhere on some CPUs
        torch.testing.assert_close(again(pixels).logits, whole.model.eval()(pixels).logits)


@pytest.mark.slow
def test_the_probe_is_fitted_without_dropout(image_folder: Path, tmp_path: Path) -> None:
    make_family("resnet").save_pretrained(tmp_path / "checkpoint")
    changes = {"model_type": None, "model_config": None, "model_name_or_path": str(tmp_path / "checkpoint")}
    heads = []
    for rate in (None, 0.5):
        recipe = write_recipe(tmp_path, **changes, head_init="probe", head_dropout=rate, learning_rate=0.0)
        result = finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / str(rate)))
        heads.append(result.model.classifier[1].weight.detach())
    assert torch.equal(*heads)


def test_a_model_object_is_built_already(image_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, model_type=None, model_config=None, drop_path=0.1)
    with pytest.raises(UserError, match=r"^drop_path is for a network that is built here; build the model object with"):
        finetune(recipe, dataset=str(image_folder), model=make_model("vit"), output_dir=str(tmp_path / "output"))
