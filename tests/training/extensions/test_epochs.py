"""Who hears which epoch begins."""

from __future__ import annotations

from hf_finetune.training.extensions.epochs import EpochOfDraws, SecondEpochCallback
from tests.helpers.stub_loop import StubLoop, call


def test_the_draws_hear_of_each_epoch() -> None:
    extension = EpochOfDraws()
    extension.attach(loop := StubLoop())
    for epoch in (None, 1.0, 2.0):
        loop.state.epoch = epoch
        call(extension, "epoch_begin")
    assert loop.epochs == [0, 1, 2]


def test_work_is_done_once_when_the_second_epoch_begins() -> None:
    done: list[int] = []
    callback = SecondEpochCallback(lambda: done.append(callback.epochs_begun))
    for _ in range(4):
        callback.on_epoch_begin(None, None, None)
    assert done == [2]
