"""`logit_adjustment_at: end`: the head's bias is shifted once, after the training, and nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_finetune import FinetuneResult, UserError, finetune
from tests.helpers.tiny import TINY_RECIPE

BIAS = "classifier.1.bias"


@pytest.fixture(scope="module")
def uneven(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, of which red has a quarter of its images."""
    folder = tmp_path_factory.mktemp("uneven") / "images"
    shutil.copytree(image_folder, folder)
    red = sorted((folder / "train" / "red").iterdir())
    for path in set(red) - set(red[::4]):
        path.unlink()
    return folder


def run(images: Path, folder: Path, **settings: Any) -> FinetuneResult:
    return finetune(TINY_RECIPE, dataset=str(images), output_dir=folder, num_train_epochs=1, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"validation_fraction": 0}], ids=["validation", "no validation"])
def test_the_bias_alone_is_shifted(uneven, tmp_path, settings, caplog):
    plain = run(uneven, tmp_path / "plain", **settings)
    with caplog.at_level("INFO"):
        shifted = run(uneven, tmp_path / "shifted", logit_adjustment=2, logit_adjustment_at="end", **settings)
    before, after = (load_file(result.output_dir / "model.safetensors") for result in (plain, shifted))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name != BIAS)
    most, fewest = (len(list((uneven / "train" / name).iterdir())) for name in ("blue", "red"))
    shift = (before[BIAS] - after[BIAS]).double()
    assert shift[2] - shift[0] == pytest.approx(2 * np.log(fewest / most), abs=0.35)  # some images are held out
    assert (shift / 2).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert "Logits will be shifted after the training, by class: from" in caplog.text


def test_it_is_refused_without_an_adjustment_and_without_a_bias(uneven, tmp_path):
    with pytest.raises(UserError, match="logit_adjustment is not set; use logit_adjustment=1 as well"):
        run(uneven, tmp_path / "run", logit_adjustment_at="end")
    with pytest.raises(UserError, match="one linear layer with a bias, which CustomHeadForImageClassification has not"):
        run(uneven, tmp_path / "run", logit_adjustment=1, logit_adjustment_at="end", head="cosine")
    assert not list(tmp_path.rglob("*.safetensors"))
