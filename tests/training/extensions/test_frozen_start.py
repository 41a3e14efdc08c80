"""The head is trained alone in the first epochs, and a run resumes exactly in both phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_finetune.errors import UserError
from hf_finetune.models.freeze import freeze_modules, hold_backbone
from hf_finetune.training.sanity_check import sanity_check
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer

SETTINGS: dict[str, Any] = {
    **{"num_train_epochs": 4, "freeze_epochs": 2, "learning_rate": 0.1, "save_strategy": "steps", "save_steps": 3},
    **{"save_total_limit": None, "lr_scheduler_type": "linear", "ema_decay": 0.5},
}  # epochs of 4 steps


class Recorder(TrainerCallback):
    """Keeps the weights after each step, and the rate before it."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.rates: list[float] = []

    def on_step_begin(self, *arguments: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_step_end(self, *arguments: Any, model: Any = None, **kwargs: Any) -> None:
        self.weights.append({name: tensor.detach().clone() for name, tensor in model.state_dict().items()})


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_the_backbone_stays_as_it_is_until_its_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], optim: str
) -> None:
    model = make_model("resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = make_trainer(tmp_path, model, optim=optim, weight_decay=0.1, **SETTINGS)
    trainer.add_callback(recorder := Recorder())
    trainer.train()
    for step, weights in enumerate(recorder.weights):
        changed = {name for name, tensor in weights.items() if not torch.equal(tensor, before[name])}
        head = {"classifier.1.weight", "classifier.1.bias"}
        assert changed == head if step < 8 else changed > head
        assert ("resnet.embedder.embedder.normalization.running_mean" in changed) == (step >= 8)
    assert recorder.rates == pytest.approx([0.1] * 8 + [0.1 * (1 - step / 8) for step in range(8)])
    out = capsys.readouterr().out
    assert "The head alone (68 of " in out and "From epoch 2 on everything is trained." in out


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 8, 9])  # held, at the border, released
def test_a_resumed_run_is_exact_in_both_phases(tmp_path: Path, step: int) -> None:
    settings = SETTINGS | {"save_steps": step}
    whole = make_model("resnet")
    make_trainer(tmp_path, whole, **settings).train()
    resumed = make_model("resnet")
    trainer = make_trainer(tmp_path, resumed, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_release_keeps_what_is_frozen_for_good() -> None:
    model = make_model("resnet")
    freeze_modules(model, ["resnet.embedder"])
    release = hold_backbone(model)
    model.train()
    assert [name for name, own in model.named_parameters() if own.requires_grad] == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]
    assert not model.resnet.encoder.stages[0].training and model.classifier.training
    release()
    model.train()
    assert model.resnet.encoder.stages[0].training and not model.resnet.embedder.training
    assert not any(own.requires_grad for own in model.resnet.embedder.parameters())
    assert all(own.requires_grad for own in model.resnet.encoder.parameters())


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="freeze_epochs is 3, which leaves none of 3 epochs"):
        make_trainer(tmp_path, make_model("resnet"), num_train_epochs=3, freeze_epochs=3)
    model = make_model("resnet")
    freeze_modules(model, ["backbone"])
    with pytest.raises(UserError, match="of which nothing is trained; leave freeze_epochs out"):
        sanity_check(make_trainer(tmp_path, model, freeze_epochs=1))
