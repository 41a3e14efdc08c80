"""What a checkpoint holds so that a resumed run continues exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as serialized
from transformers import TrainerState

from hf_finetune.errors import UserError
from hf_finetune.training.checkpoints.resume import ResumeState, RunningLoss
from hf_finetune.training.checkpoints.usable import find_best_again
from tests.helpers.checkpoints import save


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    weights = torch.arange(6.0).reshape(2, 3).T  # not contiguous
    states = {"average": {"weight": weights, "count": 3}, "skipped": {"steps": [{"step": 1}]}, "nothing": {}}
    running = RunningLoss(since_log=[0.1, 0.7], before=1 / 3, last_logged_step=5)
    ResumeState(running, states).save(tmp_path)
    loaded = ResumeState.load(tmp_path)
    assert loaded.running_loss == running and loaded.extensions["skipped"] == states["skipped"]
    assert torch.equal(loaded.extensions["average"].pop("weight"), weights)
    assert loaded.extensions["average"] == {"count": 3} and loaded.extensions["nothing"] == {}
    assert {path.name for path in tmp_path.iterdir()} == {"resume_state.json", "average.safetensors"}


def test_the_running_loss_of_each_rank() -> None:
    running = RunningLoss([1.0, 3.0], 0.0, 0)
    assert [running.of_rank(rank, 2) for rank in (0, 1)] == [1.0, 3.0]
    assert [running.of_rank(rank, 4) for rank in (0, 3)] == [2.0, 2.0]  # the mean of all stays
    assert running.of_rank(0, 1) == 2.0


def test_a_checkpoint_of_another_version_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no resume_state.json: another version of hf-finetune wrote it"):
        ResumeState.load(tmp_path)


@pytest.fixture
def resumed(tmp_path: Path) -> Path:
    """The newest checkpoint of a run that was moved, whose best one lies beside it."""
    save(tmp_path, 4, serialized({}))
    newest = save(tmp_path, 8)
    best = {"best_model_checkpoint": "/elsewhere/checkpoint-4"}
    (newest / "trainer_state.json").write_text(json.dumps(best))
    return newest


def make_state() -> TrainerState:
    return TrainerState(best_metric=0.9, best_global_step=4, best_model_checkpoint="/elsewhere/checkpoint-4")


def test_the_best_is_found_beside_the_resumed_one(resumed: Path) -> None:
    find_best_again(state := make_state(), resumed, is_chosen=True)
    assert state.best_model_checkpoint == str(resumed.with_name("checkpoint-4")) and state.best_metric == 0.9


@pytest.mark.parametrize("is_chosen", [True, False])
def test_a_best_that_is_lost_is_the_best_no_more(resumed: Path, is_chosen: bool, capsys) -> None:
    shutil.rmtree(resumed.with_name("checkpoint-4"))
    find_best_again(state := make_state(), resumed, is_chosen)
    assert state.best_model_checkpoint is None
    assert state.best_metric == (None if is_chosen else 0.9)
    assert ("checkpoint-4, is lost (it is missing)" in capsys.readouterr().out) == is_chosen


def test_without_a_best_nothing_changes(resumed: Path) -> None:
    (resumed / "trainer_state.json").write_text('{"best_model_checkpoint": null}')
    find_best_again(state := make_state(), resumed, is_chosen=True)
    assert state.best_metric == 0.9
