"""How many bytes the checkpoints of a run take, and how many there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.training.checkpoints.sizes import checkpoint_sizes, checkpoints_to_come


def make_arguments(folder: Path, **settings: object) -> FinetuneArguments:
    settings = {"num_train_epochs": 3, "global_batch_size": 8, "load_best_model_at_end": False, **settings}
    return FinetuneArguments(output_dir=str(folder), use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("settings", "states"),
    [
        ({"momentum": 0.9}, 1),
        ({"momentum": 0.0, "nesterov": False}, 0),
        ({"optim": "adamw_torch"}, 2),
        ({"optim": "rmsprop"}, 1),
        ({"ema_decay": 0.9}, 2),
    ],
)
def test_bytes(tmp_path: Path, settings: dict, states: int) -> None:
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 5, bias=False))
    model[1].requires_grad_(False)
    assert checkpoint_sizes(model, make_arguments(tmp_path, **settings)) == (600, 600 + states * 400)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"save_strategy": "no"}, 0),
        ({"save_strategy": "best"}, 1),
        ({"save_strategy": "epoch"}, 3),
        ({"save_strategy": "epoch", "max_steps": 7}, 2),
        ({"save_strategy": "steps", "save_steps": 4}, 5),
        ({"save_strategy": "steps", "save_steps": 0.5}, 2),
    ],
)
def test_checkpoints_of_a_run(tmp_path: Path, settings: dict, count: int) -> None:
    assert checkpoints_to_come(make_arguments(tmp_path, **settings), images=44) == count  # 6 steps an epoch
