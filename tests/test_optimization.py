"""The step schedule as a function of the step, and the loss that makes every way of batching equal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from hf_finetune.training.optimization import classification_loss, multistep_factor, multistep_schedule


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
