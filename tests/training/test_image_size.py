"""A run on images of another size than the weights were saved for: the same in pipeline, and after a resume."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification, pipeline

from hf_finetune import evaluate, finetune
from hf_finetune.errors import Interrupted
from tests.helpers.tiny import TINY_RECIPE

VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


class StopAfterAStep(TrainerCallback):
    """Sends SIGTERM to this process."""

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_pipeline_evaluates_the_same_and_a_resumed_run_is_exact(image_folder: Path, tmp_path: Path, caplog) -> None:
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **VIT)).save_pretrained(tmp_path / "vit")
    changes: dict[str, object] = {"model_type": None, "model_config": None, "model_name_or_path": str(tmp_path / "vit")}
    changes |= {"image_size": 48, "train_transforms": None, "num_train_epochs": 2}
    recipe = {**TINY_RECIPE, **changes}

    with caplog.at_level("INFO", "hf_finetune"):
        whole = finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / "whole"))
    assert "from images of 32 x 32 pixels to 48 x 48: from a grid of 4 x 4 to 6 x 6." in caplog.text

    output = str(tmp_path / "whole")
    classifier = pipeline("image-classification", model=output, device="cpu")
    files = sorted((image_folder / "test").rglob("*.png"))
    answers = classifier(list(map(str, files)), top_k=3)
    scores = [
        next(entry["score"] for entry in answer if entry["label"] == file.parent.name)
        for answer, file in zip(answers, files, strict=True)
    ]
    loss = -float(torch.tensor(scores).log().mean())
    assert loss == pytest.approx(whole.metrics["test_loss"], abs=1e-5)
    assert evaluate(output, dataset=str(image_folder), use_cpu=True).metrics["loss"] == pytest.approx(loss, abs=1e-5)

    with caplog.at_level("INFO", "hf_finetune"):
        larger = evaluate(output, dataset=str(image_folder), use_cpu=True, image_size=64)
    assert "from images of 48 x 48 pixels to 64 x 64: from a grid of 6 x 6 to 8 x 8." in caplog.text
    assert larger.metrics["loss"] != loss and larger.metrics["samples"] == 24

    settings = {"dataset": str(image_folder), "output_dir": str(tmp_path / "resumed")}
    with pytest.raises(Interrupted):
        finetune(recipe, callbacks=[StopAfterAStep()], **settings)
    with caplog.at_level("INFO", "hf_finetune"):
        resumed = finetune(recipe, **settings)
    assert "it resumes from checkpoint-" in caplog.text
    for (name, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
