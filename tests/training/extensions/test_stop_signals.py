"""Signals that ask a run to stop: noted, acted on after the step, and never lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch

from hf_finetune.errors import Interrupted, UserError
from hf_finetune.training.extensions.stop_signals import StopOnSignals, StopSignals, outlive_stop_signals
from tests.helpers.stub_loop import StubLoop


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch):
    """The signals that reached what was there before."""
    got: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda number, frame: got.append(number))
    yield got
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_was_acted_on_goes_no_further(delivered, number):
    with StopSignals() as signals:
        assert signals.received is None
        send(number)
        send(number)  # a launcher passes on what its processes were sent as well
        assert signals.received is number
        signals.handled = True
    assert delivered == []
    send(number)
    assert delivered == [number]  # what was there before is there again


def test_a_signal_that_nobody_acted_on_is_delivered_when_it_is_left(delivered):
    with StopSignals():
        send(signal.SIGTERM)
        assert delivered == []
    assert delivered == [signal.SIGTERM]


def test_without_a_signal_nothing_happens(delivered):
    with StopSignals() as signals:
        pass
    assert signals.received is None and delivered == []


def second_signal_later() -> None:
    with StopSignals() as signals:
        send(signal.SIGTERM)
        signals._received_at -= 3  # seconds
        send(signal.SIGTERM)
        time.sleep(10)


def worker(ready: multiprocessing.Event) -> None:
    outlive_stop_signals()
    ready.set()
    time.sleep(20)


def sender(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)


def test_a_second_signal_ends_the_process():
    process = multiprocessing.get_context("fork").Process(target=second_signal_later)
    process.start()
    process.join(5)
    assert process.exitcode == -signal.SIGTERM


def test_a_worker_outlives_what_all_are_sent_but_not_its_parents_word():
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    process = fork.Process(target=worker, args=(ready,))
    process.start()
    assert ready.wait(5)
    other = fork.Process(target=sender, args=(process.pid,))
    other.start()
    other.join(5)
    process.join(0.3)
    assert process.exitcode is None
    process.terminate()
    process.join(5)
    assert process.exitcode == 0


def attached(processes: int = 1, others_ask: bool = False) -> StopOnSignals:
    extension = StopOnSignals()
    extension.attach(loop := StubLoop())
    loop.state.max_steps = 1000
    loop.accelerator.num_processes = processes
    # What the other ranks add: whether one of them was asked to stop, and as many steps as this one.
    loop.accelerator.reduce = lambda own, how: own * torch.tensor([1, processes]) + torch.tensor([others_ask, 0])
    return extension


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_is_asked_to_stop_and_the_signal_goes_no_further(delivered, processes):
    extension = attached(processes)
    with pytest.raises(Interrupted), extension.training():
        assert extension.stop_requested() is None
        send(signal.SIGINT)
        extension.loop.state.global_step += 100
        assert extension.stop_requested() is signal.SIGINT
        raise Interrupted(signal.SIGINT, 3)
    assert delivered == []


@pytest.mark.parametrize(("resumed", "saved"), [(0, 7), (7, None)])
def test_a_signal_after_the_last_step_ends_the_run_if_that_step_is_saved(delivered, resumed, saved):
    extension = attached()
    extension.loop.state.global_step = resumed
    with pytest.raises(Interrupted, match="after step 7; saved"), extension.training():
        extension.on_train_begin(None, extension.loop.state, None)
        extension.loop.state.global_step = 7
        if saved is not None:
            extension.before_save()
        send(signal.SIGTERM)
    assert delivered == []


def test_a_signal_after_a_last_step_that_is_not_saved_is_delivered(delivered):
    extension = attached()
    with extension.training():
        extension.on_train_begin(None, extension.loop.state, None)
        extension.loop.state.global_step = 7
        send(signal.SIGTERM)
    assert delivered == [signal.SIGTERM]


def test_all_ranks_stop_where_one_was_asked(delivered):
    extension = attached(processes=2, others_ask=True)
    with extension.training():
        assert extension.stop_requested() is signal.SIGTERM
    assert delivered == []


@pytest.mark.parametrize(("seconds", "agreements"), [(0.001, 10), (0.25, 250), (5.0, 1000)])
def test_ranks_agree_about_once_a_second_and_at_the_last_step(monkeypatch, seconds, agreements):
    extension = attached(processes=2)
    loop, now = extension.loop, [time.monotonic()]
    asked_at: list[int] = []
    one_rank = loop.accelerator.reduce
    loop.accelerator.reduce = lambda own, how: asked_at.append(loop.state.global_step) or one_rank(own, how)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for step in range(1, loop.state.max_steps + 1):
        now[0] += seconds
        loop.state.global_step = step
        assert extension.stop_requested() is None
    assert agreements <= len(asked_at) <= agreements + 2
    assert asked_at[-1] == loop.state.max_steps


def test_a_run_that_fails_before_it_has_stopped_delivers_the_signal(delivered):
    with pytest.raises(UserError), attached().training():
        send(signal.SIGTERM)
        raise UserError("the disk is full")
    assert delivered == [signal.SIGTERM]
