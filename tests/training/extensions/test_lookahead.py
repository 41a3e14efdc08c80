"""Lookahead: what the slow weights are, and that a stop does not change them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from hf_finetune.errors import UserError
from hf_finetune.training.extensions.lookahead import lookahead_decay
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer

EVALUATED = {"save_strategy": "epoch", "num_train_epochs": 3, "lookahead_steps": 3, "learning_rate": 0.1}


class Stop(TrainerCallback):
    """Ends the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_save = state.global_step == self.step


class Recorder(TrainerCallback):
    """Notes a weight and a running statistic as the optimizer leaves them, and as the step does."""

    def __init__(self) -> None:
        self.trained: list[torch.Tensor] = []
        self.kept: list[torch.Tensor] = []

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.trained.append(tracked(model))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.kept.append(tracked(model))


def tracked(model) -> torch.Tensor:
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    return torch.cat([norm.weight.detach().clone(), norm.running_mean.clone()])


def test_the_decay_rises_from_zero_to_095_per_step():
    assert lookahead_decay(1, 1000, 5) < 1e-8
    assert lookahead_decay(500, 1000, 5) == pytest.approx(0.95**5 / 8)
    assert lookahead_decay(1000, 1000, 5) == pytest.approx(0.95**5)


def test_every_third_step_and_the_last_continue_from_the_slow_weights(tmp_path: Path):
    model = make_model("resnet")
    slow = tracked(model)
    trainer = make_trainer(tmp_path, model, num_train_epochs=2, lookahead_steps=3, learning_rate=0.1)
    trainer.add_callback(recorder := Recorder())
    trainer.train()
    assert len(recorder.kept) == 8
    for step, (trained, kept) in enumerate(zip(recorder.trained, recorder.kept, strict=True), 1):
        if step in (3, 6, 8):
            decay = lookahead_decay(step, 8, 3)
            slow = decay * slow + (1 - decay) * trained
            torch.testing.assert_close(kept, slow)
            assert not torch.equal(kept, trained)
        else:
            assert torch.equal(kept, trained)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 5])
def test_a_resumed_run_ends_as_the_undisturbed_one(tmp_path: Path, stop: int):
    whole = make_model("resnet")
    make_trainer(tmp_path / "whole", whole, **EVALUATED).train()
    first = make_trainer(tmp_path / "parts", make_model("resnet"), **EVALUATED)
    first.add_callback(Stop(stop))
    first.train()
    resumed = make_model("resnet")
    trainer = make_trainer(tmp_path / "parts", resumed, **EVALUATED)
    trainer.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{stop}"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_checkpoint_without_slow_weights_is_refused(tmp_path: Path):
    plain = {**EVALUATED, "lookahead_steps": None, "num_train_epochs": 1}
    make_trainer(tmp_path, make_model("resnet"), **plain).train()
    trainer = make_trainer(tmp_path, make_model("resnet"), **EVALUATED)
    with pytest.raises(UserError, match="no slow weights for lookahead_steps"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_two_averages_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="ema_decay and lookahead_steps both average"):
        make_trainer(tmp_path, make_model("resnet"), lookahead_steps=5, ema_decay=0.9)
