"""Synchronized BatchNorm is the same network: its weights, its answers, and what is frozen in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_finetune import finetune
from hf_finetune.errors import UserError
from hf_finetune.models.batch_norm import synchronize_batch_norm
from tests.helpers.networks import SIDE, make_model
from tests.helpers.tiny import tiny_timm, write_recipe


@pytest.mark.parametrize("make", [lambda: make_model("resnet"), lambda: tiny_timm(4)], ids=["transformers", "timm"])
def test_it_answers_as_before(make):
    model = make().eval()
    images = torch.randn(2, 3, SIDE, SIDE)
    names = set(model.state_dict())
    with torch.no_grad():
        before = model(pixel_values=images).logits
        synchronize_batch_norm(model)
        after = model(pixel_values=images).logits
    torch.testing.assert_close(after, before)
    assert set(model.state_dict()) == names
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(module, nn.SyncBatchNorm) for module in norms)


def test_without_batch_norm_there_is_nothing_to_synchronize():
    with pytest.raises(UserError, match="sync_batchnorm: ViTForImageClassification has no BatchNorm; leave it out."):
        synchronize_batch_norm(make_model("vit"))


def test_it_needs_a_gpu(image_folder, tmp_path):
    recipe = str(write_recipe(tmp_path, sync_batchnorm=True))
    with pytest.raises(UserError, match="sync_batchnorm needs GPUs, and this run is on the CPU; leave it out."):
        finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / "output"))
    assert not (tmp_path / "output").exists()
