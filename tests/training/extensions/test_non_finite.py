"""Non-finite losses, on a plain module and without a Trainer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hf_finetune.errors import UserError
from hf_finetune.training.extensions.non_finite import NonFiniteLosses
from tests.helpers.stub_loop import StubLoop, call


def make(max_skipped: int = 0) -> NonFiniteLosses:
    extension = NonFiniteLosses(max_skipped, "image {}".format)
    extension.attach(StubLoop(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
    return extension


def run_pass(extension: NonFiniteLosses, loss: float, *rows: int) -> None:
    extension.after_pass(torch.tensor(loss), torch.tensor(rows) if rows else None)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_first_one_stops_with_step_rate_and_images(loss: float) -> None:
    extension = make()
    run_pass(extension, 0.5, 1, 2)
    extension.loop.state.global_step, extension.loop.state.epoch = 6, 1.5
    extension.loop.state.best_model_checkpoint = "run/checkpoint-4"
    with pytest.raises(UserError) as caught:
        run_pass(extension, loss, 3, 4)
    assert str(caught.value) == (
        "The loss is not finite at step 7 (epoch 1.50, rate 0.1); use a lower --learning_rate or add --warmup_steps, or"
        " --on_nan skip 10. Last good checkpoint: run/checkpoint-4. Images of that step: image 3, image 4."
    )


def test_on_a_device_it_is_found_before_the_log_line_and_the_first_is_named() -> None:
    extension = make()
    extension.loop.accelerator.num_processes = 2  # then no pass is waited for
    extension.loop.accelerator.gather = lambda steps: torch.cat([steps, torch.tensor([-1])])
    for step, loss in enumerate([0.5, math.nan, 0.5, math.inf]):
        extension.loop.state.global_step = step
        run_pass(extension, loss)
    with pytest.raises(UserError, match="not finite at step 2 "):
        extension.before_log()


def test_another_ranks_loss_stops_this_one() -> None:
    extension = make()
    extension.loop.accelerator.num_processes = 2
    extension.loop.accelerator.gather = lambda steps: torch.cat([steps, torch.tensor([5])])
    run_pass(extension, 0.5)
    with pytest.raises(UserError, match="not finite at step 5 "), pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_finetune.training.extensions.base.gather_object", lambda names: names)
        extension.before_save()


def test_broken_weights_are_not_saved() -> None:
    extension = make()
    extension.before_save()
    extension.loop.model[0].weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match="The weights are not finite at step 0"):
        extension.before_save()
    extension.loop.is_sharded = True  # then nobody has them all
    extension.before_save()


def spoil_step(extension: NonFiniteLosses, loss: float = math.nan) -> None:
    call(extension, "step_begin")
    extension.loop.loss += 7
    extension.loop.model[1].running_mean += 1
    for parameter in extension.loop.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    run_pass(extension, loss, 8)


def test_of_a_skipped_step_nothing_stays() -> None:
    extension = make(max_skipped=1)
    extension.loop.loss.fill_(3.0)
    spoil_step(extension)
    call(extension, "pre_optimizer_step")
    assert all(parameter.grad is None for parameter in extension.loop.model.parameters())
    assert extension.loop.model[1].running_mean.tolist() == [0, 0] and extension.loop.left_out == [3.0]
    assert extension.skipped_steps == [{"step": 1, "learning_rate": 0.1, "images": ["image 8"]}]
    spoil_step(extension, loss=0.5)
    call(extension, "pre_optimizer_step")  # this one is kept
    assert all(parameter.grad is not None for parameter in extension.loop.model.parameters())
    assert extension.loop.model[1].running_mean.tolist() == [1, 1] and len(extension.loop.left_out) == 1


def test_a_gradient_that_is_not_finite_is_skipped_too_unless_a_scaler_looks_after_it() -> None:
    for scaler in (None, object()):
        extension = make(max_skipped=1)
        extension.loop.accelerator.scaler = scaler
        spoil_step(extension, loss=0.5)
        extension.loop.model[0].bias.grad[0] = math.inf
        call(extension, "pre_optimizer_step")
        assert len(extension.skipped_steps) == (scaler is None)


def test_more_than_allowed_stop_the_run_also_after_a_resume() -> None:
    extension, resumed = make(max_skipped=1), make(max_skipped=1)
    spoil_step(extension)
    call(extension, "pre_optimizer_step")
    resumed.load_state_dict(extension.state_dict())
    assert resumed.skipped_steps == extension.skipped_steps
    spoil_step(resumed)
    with pytest.raises(
        UserError, match="and 1 were skipped before; use a lower --learning_rate or add --warmup_steps. "
    ):
        call(resumed, "pre_optimizer_step")


def test_what_is_remembered_of_steps_is_bounded() -> None:
    extension = make()
    extension.loop.accelerator.num_processes = 2
    extension.loop.accelerator.gather = lambda steps: steps
    for _ in range(3000):
        run_pass(extension, 0.5)
    assert len(extension._unchecked) <= 1001
