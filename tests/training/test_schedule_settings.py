"""The learning rate of each step by the settings of a recipe: warm-up, its kinds, epochs and ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from hf_finetune.training.optimization import build_schedule, multistep_factor

UPDATES = 4  # optimizer steps of an epoch
STEPS = 3 * UPDATES
POLYNOMIAL = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.0}}  # a straight line to 0


def rates(folder: Path, **settings: object) -> list[float]:
    """Return the learning rate of each step of three epochs of 4 steps, at a rate of 1."""
    args = FinetuneArguments(output_dir=str(folder), use_cpu=True, report_to="none", learning_rate=1.0, **settings)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(args, optimizer, STEPS, UPDATES)
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_milestones_after_a_warm_up_of_the_schedules_own(tmp_path):
    found = rates(tmp_path, lr_milestones=[1, 2], lr_gamma=0.5, warmup_epochs=0.5)
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 1] + [0.5] * 4 + [0.25] * 4)


def test_a_milestone_at_the_end_of_the_warm_up_counts():
    arguments = {"warmup_steps": 4, "updates_per_epoch": 10, "milestones": [0.4], "gamma": 0.1}
    assert [multistep_factor(step, **arguments) for step in (3, 4)] == pytest.approx([0.8, 0.1])


def test_a_warm_up_from_a_factor_takes_the_place_of_the_schedules_own(tmp_path):
    found = rates(tmp_path, lr_milestones=[2], lr_gamma=0.5, warmup_epochs=1, warmup_start_factor=0.1)
    assert found == pytest.approx([0.1, 0.4, 0.7, 1] + [1] * 4 + [0.5] * 4)


def test_a_warm_up_of_two_steps_ends_with_the_second(tmp_path):
    assert rates(tmp_path, lr_milestones=[], warmup_steps=2, warmup_start_factor=0.2)[:3] == pytest.approx([0.2, 1, 1])


def test_a_warm_up_that_multiplies_runs_beside_the_schedule(tmp_path):
    found = rates(tmp_path, **POLYNOMIAL, warmup_epochs=1, warmup_start_factor=0.2, warmup_multiplies=True)
    line = [1 - step / STEPS for step in range(STEPS)]
    assert found == pytest.approx(
        [part * factor for part, factor in zip(line, [0.2, 0.4, 0.6, 0.8] + [1] * 8, strict=True)]
    )


def test_a_warm_up_before_the_schedule_moves_its_beginning(tmp_path):
    found = rates(tmp_path, **POLYNOMIAL, warmup_epochs=1, warmup_start_factor=0.1)
    assert found == pytest.approx([0.1, 0.4, 0.7, 1] + [1 - step / 8 for step in range(8)])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [0.25, 0.5, 0.75, 1]),
        ("constant", [0.25, 0.25, 0.25, 1]),
        ("exponential", [0.25, 0.25 ** (2 / 3), 0.25 ** (1 / 3), 1]),
    ],
)
def test_kinds_of_warm_up(tmp_path, kind, expected):
    settings = {"lr_milestones": [], "warmup_epochs": 1, "warmup_start_factor": 0.25, "warmup_type": kind}
    assert rates(tmp_path, **settings) == pytest.approx([*expected, *[1] * 8])


@pytest.mark.parametrize(
    ("epochs", "multiplies", "expected"),
    [
        (2, True, [0.2] * 4 + [0.6] * 4 + [1] * 4),
        (2, False, [0.2] * 4 + [1] * 8),
        (1.5, False, [0.2] * 4 + [1] * 8),  # the second epoch is not begun before the warm-up's end
    ],
)
def test_a_warm_up_between_epochs_changes_with_them_alone(tmp_path, epochs, multiplies, expected):
    found = rates(
        tmp_path,
        lr_milestones=[],
        warmup_epochs=epochs,
        warmup_start_factor=0.2,
        warmup_multiplies=multiplies,
        warmup_between_epochs=True,
    )
    assert found == pytest.approx(expected)


def test_a_rate_by_epoch_stands_still_within_each(tmp_path):
    assert rates(tmp_path, **POLYNOMIAL, lr_by_epoch=True) == pytest.approx([1] * 4 + [2 / 3] * 4 + [1 / 3] * 4)
    warmed_up = rates(tmp_path, **POLYNOMIAL, lr_by_epoch=True, warmup_steps=2)
    assert warmed_up == pytest.approx([0, 0.5, 1, 1] + [0.8] * 4 + [0.4] * 4)


def test_a_schedule_that_has_ended_stays_at_its_end(tmp_path):
    """A cosine would rise again."""
    found = rates(tmp_path, lr_scheduler_type="cosine", lr_decay_epochs=2)
    assert found[0] == 1 and found[4] == pytest.approx(0.5)
    assert found[8:] == pytest.approx([0] * 4)


def test_one_cycle_rises_for_a_quarter_and_falls_along_cosines(tmp_path):
    """fastai's `combined_cos(0.25, 1 / 25, 1, 1e-5)` at the shares 0, 1/12, ..., 11/12."""
    found = rates(tmp_path, lr_scheduler_type="one_cycle")
    assert found[:4] == pytest.approx([0.04, 0.28, 0.76, 1.0])
    assert found[6] == pytest.approx(0.75, abs=1e-4) and found[-1] == pytest.approx(0.03016, abs=1e-4)
    line = rates(
        tmp_path,
        lr_scheduler_type="one_cycle",
        lr_scheduler_kwargs={"anneal": "linear", "pct_start": 0.5, "div": 10, "div_final": 10},
    )
    assert line == pytest.approx([0.1 + 0.15 * min(step, 12 - step) for step in range(12)])
    assert rates(tmp_path, lr_scheduler_type="one_cycle", lr_reaches_end=True)[-1] == pytest.approx(1e-5)


def test_one_cycle_refuses_what_it_cannot_be(tmp_path):
    with pytest.raises(UserError, match="one_cycle has a warm-up of its own"):
        rates(tmp_path, lr_scheduler_type="one_cycle", warmup_epochs=1)
    with pytest.raises(ValueError, match="pct_start is between 0 and 1"):
        rates(tmp_path, lr_scheduler_type="one_cycle", lr_scheduler_kwargs={"pct_start": 1.0})
