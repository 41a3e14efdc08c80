"""A training by the clock, with a clock that the test moves: schedule, end, evaluations, checkpoints and resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from hf_finetune.training.extensions.time_budget import Budget, TimeBudget, factor_at
from tests.helpers.networks import make_model
from tests.helpers.stub_loop import StubLoop
from tests.helpers.trainers import make_trainer


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Run:
    """A loop of steps of one second, without a Trainer."""

    def __init__(self, seconds: float, reserve: float = 0.0, evaluations: int = 0, spent: float = 0.0) -> None:
        self.clock = Clock()
        self.extension = TimeBudget(Budget(seconds, began=0.0, now=self.clock))
        self.clock.seconds = spent
        self.extension.reserve, self.extension.evaluations, self.extension.steps = reserve, evaluations, 7
        self.extension.attach(StubLoop())
        self.state = self.extension.loop.state
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        self.schedule = self.extension.schedule(self.optimizer)
        self.rates: list[float] = []
        self.evaluated: list[int] = []
        self.saved: list[int] = []
        self.foretold: list[int] = []

    def begin(self) -> None:
        self.control = SimpleNamespace(should_training_stop=False)
        self.extension.on_train_begin(None, self.state, self.control)

    def steps(self, most: int = 10**4, seconds: float = 1.0) -> int:
        """Take steps until the end, at most so many; return how many it took in all."""
        for _ in range(most):
            if self.control.should_training_stop:
                break
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.clock.seconds += seconds
            self.state.global_step += 1
            self.optimizer.step()
            self.schedule.step()
            self.control = SimpleNamespace(should_training_stop=False, should_evaluate=False, should_save=False)
            self.extension.on_step_end(None, self.state, self.control)
            self.foretold.append(self.state.max_steps)
            if self.control.should_evaluate:
                self.evaluated.append(self.state.global_step)
            if self.control.should_save:
                self.saved.append(self.state.global_step)
        return self.state.global_step


def test_the_factor_rises_and_falls_to_zero():
    assert [factor_at(share) for share in (0, 0.025, 0.05)] == pytest.approx([0, 0.5, 1])
    assert factor_at(0.525) == pytest.approx(0.5)
    assert factor_at(1) == factor_at(1.2) == 0


def test_the_training_ends_when_its_time_is_spent():
    run = Run(120.0, reserve=15.0, spent=5.0)
    run.begin()
    assert run.state.max_steps == 7  # as planned
    assert run.steps() == 100
    assert run.rates == pytest.approx([2.0 * factor_at(step / 100) for step in range(100)])
    assert run.foretold[49] == 100  # after half of the time
    assert run.foretold[-1] == 100


def test_a_step_that_would_be_over_by_more_than_half_is_not_taken():
    run = Run(10.0)
    run.begin()
    assert run.steps(seconds=3.0) == 3
    run = Run(11.0)
    run.begin()
    assert run.steps(seconds=3.0) == 4


def test_it_is_evaluated_at_equal_distances():
    run = Run(100.0, evaluations=3)
    run.begin()
    run.steps()
    assert run.evaluated == [25, 50, 75]


def test_it_is_saved_every_five_minutes():
    run = Run(1000.0)
    run.begin()
    run.steps()
    assert run.saved == [301, 602, 903]


def test_a_resumed_run_has_the_time_that_was_left():
    whole, first, second = Run(100.0, 10.0, 2), Run(100.0, 10.0, 2), Run(100.0, spent=1e6)
    whole.begin()
    first.begin()
    whole.steps()
    first.steps(40)
    second.extension.load_state_dict(first.extension.state_dict())
    second.state.global_step = 40
    second.schedule.load_state_dict(first.schedule.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.begin()
    assert second.steps() == whole.state.global_step == 90
    assert [*first.rates, *second.rates] == pytest.approx(whole.rates)
    assert [*first.evaluated, *second.evaluated] == whole.evaluated


def test_a_run_that_was_stopped_after_its_last_step_takes_no_other():
    first, second = Run(10.0), Run(10.0)
    first.begin()
    first.steps()
    second.extension.load_state_dict(first.extension.state_dict())
    second.state.global_step = first.state.global_step
    second.begin()
    assert second.control.should_training_stop
    assert second.state.max_steps == first.state.global_step


class Tick(TrainerCallback):
    """Moves the clock by a second before each step's schedule."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.clock.seconds += 1


@pytest.mark.slow
def test_a_trainer_ends_by_the_clock(tmp_path: Path):
    trainer = make_trainer(tmp_path, make_model("resnet"), time_budget="30s")
    clock, extension = Clock(), trainer.extensions.find(TimeBudget)
    extension.budget = Budget(13.0, began=0.0, now=clock)
    extension.reserve = 2.0
    trainer.add_callback(Tick(clock))
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == 11  # of 4 an epoch
    assert set(trainer.lr_scheduler.get_last_lr()) == {0.0}


def test_all_groups_of_the_optimizer_have_the_factor_of_one_look_at_the_clock():
    ticks = iter(range(10**6))
    extension = TimeBudget(Budget(1000.0, began=0.0, now=lambda: float(next(ticks))))
    extension.attach(StubLoop())
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0} for _ in range(5)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = extension.schedule(optimizer)
    extension.on_train_begin(None, extension.loop.state, SimpleNamespace(should_training_stop=False))
    before = next(ticks)
    for _ in range(20):
        optimizer.step()
        schedule.step()
        assert len(set(schedule.get_last_lr())) == 1
    assert next(ticks) - before == 20 + 1
