"""The network of the start: kept where it is watched, and in checkpoints."""

from __future__ import annotations

import torch

from hf_finetune.training.extensions.probed_start import ProbedStart
from tests.helpers.stub_loop import StubLoop


def begun(step: int, watches: bool) -> ProbedStart:
    extension = ProbedStart()
    extension.attach(StubLoop())
    extension.watches = watches
    extension.loop.state.global_step = step
    extension.on_train_begin(None, extension.loop.state, None)
    return extension


def test_the_weights_of_the_start_are_kept_and_restored() -> None:
    extension = begun(0, watches=True)
    start = extension.loop.model.weight.detach().clone()
    extension.loop.model.weight.data += 1
    again = ProbedStart()
    again.load_state_dict(extension.state_dict())
    assert torch.equal(again.weights["weight"], start) and again.weights.keys() == {"weight", "bias"}


def test_a_run_that_resumes_or_has_no_probed_head_keeps_nothing() -> None:
    assert begun(10, watches=True).weights == {} == begun(0, watches=False).weights
    assert begun(0, watches=False).state_dict() == {}
