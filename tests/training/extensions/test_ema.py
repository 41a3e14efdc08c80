"""The average of the weights: what it is, who sees it, and that a stop does not change it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_finetune.errors import UserError
from hf_finetune.training.extensions.ema import warmed_up
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer

AVERAGE_FILE = "averaged_weights.safetensors"
DECAY = 0.7
EVALUATED = {
    "eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3, "ema_decay": DECAY, "learning_rate": 0.1,
}  # fmt: skip


class Recorder(TrainerCallback):
    """Notes the weights after each step and, at `stop`, ends the run."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append({name: tensor.detach().clone() for name, tensor in model.named_parameters()})
        control.should_training_stop = state.global_step == self.stop


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    for name, tensor in second.items():
        assert torch.equal(first[name], tensor), name


def test_the_result_is_the_average_over_the_steps(tmp_path: Path):
    model = make_model("resnet")
    expected = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    trainer = make_trainer(tmp_path, model, num_train_epochs=2, ema_decay=0.4)
    trainer.add_callback(recorder := Recorder())
    trainer.train()
    assert len(recorder.weights) == 8
    for weights, decay in zip(recorder.weights, [2 / 11, 3 / 12, 4 / 13, 5 / 14, 0.4, 0.4, 0.4, 0.4], strict=True):
        expected = {name: decay * average + (1 - decay) * weights[name] for name, average in expected.items()}
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(tensor, expected[name])
    plain = make_model("resnet")
    make_trainer(tmp_path, plain, num_train_epochs=2).train()
    last = recorder.weights[-1]
    assert_same(state(plain), last)  # training is as without it


@pytest.mark.parametrize(("decay", "note"), [(0.9999, True), (0.5, False)])
def test_a_short_run_keeps_little_of_its_initial_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture, decay, note):
    rest = 1.0
    for step in range(1, 9):
        rest *= warmed_up(decay, step)
    assert rest < 0.001 < 0.9999**8
    assert warmed_up(0.9999, 10**6) == 0.9999
    make_trainer(tmp_path, make_model("resnet"), num_train_epochs=2, ema_decay=decay).train()
    message = (
        "ema_decay 0.9999 averages over more steps than the 8 of this run; the decay starts at 0.18 and rises to 0.5."
    )
    assert (message in caplog.text) == ("averages over more" in caplog.text) == note


def test_evaluation_sees_the_average_and_training_goes_on_with_the_weights(tmp_path: Path):
    model = make_model("resnet")
    trainer = make_trainer(tmp_path, model, **EVALUATED)
    trainer.add_callback(recorder := Recorder())
    trainer.train()
    losses = {entry["epoch"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    for step in (8, 12):
        checkpoint, other = tmp_path / f"checkpoint-{step}", make_model("resnet")
        weights, average = load_file(checkpoint / "model.safetensors"), load_file(checkpoint / AVERAGE_FILE)
        assert_same(weights, recorder.weights[step - 1])
        other.load_state_dict({**weights, **average})
        loss = make_trainer(tmp_path / "other", other).evaluate()["eval_loss"]
        assert loss == pytest.approx(losses[step / 4], rel=1e-6)


@pytest.mark.parametrize("chosen", [True, False])
def test_a_stop_changes_nothing(tmp_path: Path, chosen: bool):
    settings = {**EVALUATED, "load_best_model_at_end": chosen, "metric_for_best_model": "loss"}
    whole, resumed = make_model("resnet"), make_model("resnet")
    make_trainer(tmp_path / "whole", whole, **settings).train()
    stopped = make_trainer(tmp_path / "stopped", make_model("resnet"), **settings)
    stopped.add_callback(Recorder(stop=5))
    stopped.train()
    checkpoint = tmp_path / "stopped/checkpoint-4"
    make_trainer(tmp_path / "stopped", resumed, **settings).train(resume_from_checkpoint=str(checkpoint))
    assert_same(state(resumed), state(whole))


def test_the_best_average_is_the_result(tmp_path: Path):
    settings = {**EVALUATED, "load_best_model_at_end": True, "metric_for_best_model": "loss"}
    model = make_model("resnet")
    trainer = make_trainer(tmp_path, model, **settings)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert_same(state(model), {**load_file(best / "model.safetensors"), **load_file(best / AVERAGE_FILE)})
    trainer.save_model(str(tmp_path / "result"))
    assert_same(load_file(tmp_path / "result/model.safetensors"), state(model))
    assert not (tmp_path / "result" / AVERAGE_FILE).exists()


def test_the_best_average_is_the_result_where_it_is_not_the_last(tmp_path: Path):
    settings = {**EVALUATED, "load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    model = make_model("resnet")
    trainer = make_trainer(tmp_path, model, **settings)
    scores = iter([0.2, 0.9, 0.4])
    trainer.compute_metrics = lambda prediction: {"accuracy": next(scores)}
    trainer.train()
    best, last = tmp_path / "checkpoint-8", tmp_path / "checkpoint-12"
    assert Path(trainer.state.best_model_checkpoint) == best
    assert_same(state(model), {**load_file(best / "model.safetensors"), **load_file(best / AVERAGE_FILE)})
    averages = load_file(best / AVERAGE_FILE)
    assert any(not torch.equal(tensor, averages[name]) for name, tensor in load_file(last / AVERAGE_FILE).items())


def test_a_checkpoint_without_average_is_refused(tmp_path: Path):
    make_trainer(tmp_path, make_model("resnet"), **{**EVALUATED, "ema_decay": None}).train()
    trainer = make_trainer(tmp_path, make_model("resnet"), **EVALUATED)
    with pytest.raises(UserError, match="has no average of these weights"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
