"""How the time of a run is divided."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_finetune.training.budget import TimePlan, plan_time
from hf_finetune.training.speed import Speed, measure
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer

COUNTS = {"train": 1000, "validation": 100, "test": 400}


def plan(budget: float, counts: dict[str, int] = COUNTS, probes: bool = True) -> TimePlan:
    return plan_time(budget, spent=10.0, speed=Speed(step=0.5, image=0.01), counts=counts, batch=50, probes=probes)


def test_what_is_left_is_for_the_training():
    divided = plan(100.0)
    assert divided.probe_images == 1000
    assert divided.compared == 90  # at five places, 5 % of the time
    assert divided.reserve == pytest.approx((100 + 5 * 90 + 400) * 0.01 * 1.1 + 4)
    # 100 less 10 spent, 11 of features and 14.45 kept
    assert divided.steps == int((100 - 10 - 11 - 14.45) / 0.5) == 129
    assert divided.evaluations == 2  # of 1.1 seconds each, and 5 % of the time for training
    assert divided.sentence == (
        "Time budget 1 min 40 s: 10 s are spent, 11 s for the probe of the head on 1,000 images, 1 min 5 s for about"
        " 6.45 epochs of training (129 steps), 14 s to evaluate and save."
    )


def test_where_few_steps_fit_the_probe_is_the_result():
    divided = plan(35.0)
    assert not divided.trains and divided.probe_images == 477  # 15 % of the time
    assert divided.compared == 50


def test_without_a_probe_something_is_trained_in_any_case():
    assert plan(12.0, probes=False).steps == 1
    assert plan(12.0, probes=False).probe_images == 0


def test_without_validation_nothing_is_evaluated_in_between():
    assert plan(1000.0, {"train": 1000, "test": 400}).evaluations == 0


@pytest.mark.slow
def test_measuring_changes_nothing(tmp_path: Path):
    model = make_model("resnet")
    trainer = make_trainer(tmp_path, model, time_budget="60s")
    before, random_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    speed = measure(trainer, 1.0, None)
    assert speed.step > 0 and speed.image > 0
    assert measure(trainer, 1.0, 7.0).step == 7.0  # what the choice of the precision has measured
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
