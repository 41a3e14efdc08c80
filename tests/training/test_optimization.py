"""The step schedule as a function of the step, and the loss that makes every way of batching equal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from hf_finetune.training.loss import classification_loss
from hf_finetune.training.muon import Muon, muon_matrices
from hf_finetune.training.optimization import (
    build_schedule,
    decayed_parameters,
    multistep_factor,
    multistep_schedule,
    own_optimizer,
    warmed_up_factor,
    warmed_up_schedule,
)
from tests.helpers.networks import make_model


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1.0), (14, 1.0), (15, 0.1), (199, 0.1)])
def test_the_tutorials_schedule(epoch, factor):
    arguments = {"warmup_steps": 0, "updates_per_epoch": 391, "milestones": [15], "gamma": 0.1}
    assert multistep_factor(epoch * 391, **arguments) == factor
    assert multistep_factor(epoch * 391 + 390, **arguments) == factor


def test_two_milestones_multiply_and_a_part_of_an_epoch_counts():
    arguments = {"warmup_steps": 0, "updates_per_epoch": 10, "milestones": [1.5, 3], "gamma": 0.1}
    assert [multistep_factor(step, **arguments) for step in (14, 15, 29, 30)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_warm_up_is_linear_and_ends_at_the_full_rate():
    arguments = {"warmup_steps": 4, "updates_per_epoch": 10, "milestones": [3], "gamma": 0.1}
    assert [multistep_factor(step, **arguments) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_the_scheduler_of_torch_follows_the_function():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    schedule = multistep_schedule(optimizer, warmup_steps=0, updates_per_epoch=2, milestones=[2, 1], gamma=0.5)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_a_warm_up_before_a_schedule_ends_with_its_last_step_and_below_one_with_the_step_after():
    settings = {"shape": lambda step: 2.0 if step < 7 else 1.0, "warmup_steps": 5, "start_factor": 0.2, "hold": 1}
    before = [warmed_up_factor(step, multiplies=False, **settings) for step in range(8)]
    assert before == pytest.approx([0.4, 0.8, 1.2, 1.6, 2, 2, 2, 1])
    below = [warmed_up_factor(step, multiplies=True, **settings) for step in range(8)]
    assert below == pytest.approx([0.4, 0.72, 1.04, 1.36, 1.68, 2, 2, 1])


def test_a_schedule_that_is_held_changes_between_epochs_only():
    settings = {"warmup_steps": 2, "start_factor": None, "multiplies": False, "hold": 4}
    factors = [warmed_up_factor(step, shape=float, **settings) for step in range(9)]
    assert factors == [0, 1, 2, 2, 4, 4, 4, 4, 8]  # its own warm-up is not held, and it begins where that ends


def test_a_warm_up_of_one_step_begins_and_ends_there():
    settings = {"shape": lambda step: 1.0, "warmup_steps": 1, "start_factor": 0.5, "hold": 1}
    assert [warmed_up_factor(step, multiplies=False, **settings) for step in range(2)] == [0.5, 1]


@pytest.mark.parametrize(
    ("kind", "before", "below"),
    [
        ("linear", [0.25, 0.5, 0.75, 1, 1], [0.25, 0.4375, 0.625, 0.8125, 1]),
        ("constant", [0.25, 0.25, 0.25, 1, 1], [0.25, 0.25, 0.25, 0.25, 1]),
        ("exponential", [0.25, 0.25 ** (2 / 3), 0.25 ** (1 / 3), 1, 1], [0.25, 0.25**0.75, 0.5, 0.25**0.25, 1]),
    ],
)
def test_the_kinds_of_warm_up(kind, before, below):
    settings = {"shape": lambda step: 1.0, "warmup_steps": 4, "start_factor": 0.25, "hold": 1, "warmup_type": kind}
    for multiplies, expected in ((False, before), (True, below)):
        factors = [warmed_up_factor(step, multiplies=multiplies, **settings) for step in range(5)]
        assert factors == pytest.approx(expected)


def test_a_warm_up_that_is_held_reaches_the_whole_rate_in_its_last_epoch():
    settings = {"shape": lambda step: 1.0, "warmup_steps": 6, "start_factor": 0.5, "hold": 1, "warmup_hold": 2}
    factors = [warmed_up_factor(step, multiplies=False, **settings) for step in range(8)]
    assert factors == [0.5, 0.5, 0.75, 0.75, 1, 1, 1, 1]


def test_a_schedule_stays_where_it_ends():
    settings = {"warmup_steps": 0, "start_factor": None, "multiplies": False, "hold": 1, "end": 3}
    assert [warmed_up_factor(step, shape=float, **settings) for step in range(6)] == [0, 1, 2, 3, 3, 3]


def polynomial_rates(tmp_path, updates=4, **settings):
    args = FinetuneArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], learning_rate=1, lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"lr_end": 0.0}, **settings,
    )  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    shape = build_schedule(args, optimizer, 3 * updates, updates).lr_lambdas[0]
    return [shape(step) for step in range(3 * updates)]


def test_a_schedule_ends_with_the_last_step_or_epoch_or_before(tmp_path):
    assert polynomial_rates(tmp_path)[-1] == pytest.approx(1 / 12)
    assert polynomial_rates(tmp_path, lr_reaches_end=True) == pytest.approx([1 - step / 11 for step in range(12)])
    by_epoch = polynomial_rates(tmp_path, lr_reaches_end=True, lr_by_epoch=True)
    assert by_epoch == pytest.approx([1] * 4 + [0.5] * 4 + [0] * 4)
    early = polynomial_rates(tmp_path, lr_decay_epochs=2)
    assert early == pytest.approx([1 - step / 8 for step in range(8)] + [0] * 4)
    assert polynomial_rates(tmp_path, lr_decay_epochs=6)[-1] == pytest.approx(1 - 11 / 24)
    assert polynomial_rates(tmp_path, lr_reaches_end=True, lr_by_epoch=True, updates=12, lr_decay_epochs=1)[-1] == 0


def test_only_a_function_of_the_step_can_be_warmed_up():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    with pytest.raises(ValueError, match="no function of the step"):
        warmed_up_schedule(torch.optim.lr_scheduler.StepLR(optimizer, 3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_parts_of_a_batch_add_up_to_the_whole(smoothing):
    logits, labels = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 5
    loss = classification_loss(smoothing)
    whole = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert torch.allclose(loss(SimpleNamespace(logits=logits), labels), whole)
    parts = [
        loss(SimpleNamespace(logits=logits[part]), labels[part], num_items_in_batch=12)
        for part in (slice(0, 3), slice(3, 4), slice(4, 12))
    ]
    assert torch.allclose(sum(parts), whole)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_images_that_do_not_count_add_nothing_and_a_batch_without_one_that_does_is_no_division_by_zero(smoothing):
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = classification_loss(smoothing)
    for labels in (torch.full((4,), -100), torch.zeros(4, 5)):
        value = loss(SimpleNamespace(logits=logits), labels, num_items_in_batch=torch.tensor(0))
        assert value.item() == 0
        value.backward()
        assert not logits.grad.any()
    some = loss(SimpleNamespace(logits=logits), torch.tensor([-100, 2, -100, 3]), num_items_in_batch=torch.tensor(2))
    expected = functional.cross_entropy(logits[[1, 3]], torch.tensor([2, 3]), label_smoothing=smoothing)
    assert torch.allclose(some, expected)
    one = loss(SimpleNamespace(logits=logits), torch.tensor([-100, 2, -100, -100]), num_items_in_batch=torch.tensor(1))
    assert torch.allclose(one, functional.cross_entropy(logits[[1]], torch.tensor([2]), label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_of_mixed_images_are_those_of_cross_entropy(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 5, generator=generator), torch.rand(6, 5, generator=generator).softmax(dim=1)
    loss = classification_loss(smoothing)(SimpleNamespace(logits=logits), labels, num_items_in_batch=6)
    assert torch.allclose(loss, functional.cross_entropy(logits, labels, label_smoothing=smoothing))


def test_which_parameters_are_decayed():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    everything = ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert decayed_parameters(model, norms_and_biases=True, left_out=()) == everything
    assert decayed_parameters(model, norms_and_biases=False, left_out=()) == ["0.weight"]
    assert decayed_parameters(model, norms_and_biases=True, left_out=["bias", "0"]) == ["1.weight"]


def test_the_settings_of_sgd(tmp_path):
    args = FinetuneArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=0.3, momentum=0.8, nesterov=True)
    settings = {"lr": 0.3, "momentum": 0.8, "nesterov": True}
    model = make_model("resnet")
    assert own_optimizer(args, model, is_sharded=False) == (torch.optim.SGD, {**settings, "fused": True})
    assert own_optimizer(args, model, is_sharded=True) == (torch.optim.SGD, {**settings, "fused": False})


def test_the_settings_of_muon_and_of_what_transformers_has(tmp_path):
    args = FinetuneArguments(output_dir=str(tmp_path), use_cpu=True, optim="muon", adam_beta2=0.95)
    model = make_model("resnet")
    kind, settings = own_optimizer(args, model, is_sharded=False)
    assert kind is Muon and settings["betas"] == (0.9, 0.95) and len(settings["matrices"]) == len(muon_matrices(model))
    with pytest.raises(UserError, match="optim muon needs whole weights"):
        own_optimizer(args, model, is_sharded=True)
    args.optim = "adamw_torch"
    assert own_optimizer(args, model, is_sharded=False) is None
