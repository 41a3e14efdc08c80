"""The lines that a run shows, with and without the progress bar."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hf_finetune.training.extensions.log_lines import LogLines, format_log_line

STATE = SimpleNamespace(global_step=100, max_steps=2110, is_world_process_zero=True, epoch=3.0)


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (
            {"loss": 1.51889, "learning_rate": 0.01, "epoch": 0.237},
            "epoch   0.24  step 100/2110  loss 1.5189  learning rate 0.01",
        ),
        (
            {"eval_loss": 0.0728, "eval_accuracy": 0.97916, "epoch": 5.0},
            "epoch   5.00  step 100/2110  validation: loss 0.0728  accuracy 97.92%",
        ),
        ({"train_runtime": 3.0, "train_loss": 0.5, "epoch": 5.0}, ""),
    ],
)
def test_lines(logs, line, capsys):
    assert format_log_line(logs, STATE) == line
    LogLines().on_log(None, STATE, None, logs=logs)
    assert capsys.readouterr().out == (f"{line}\n" if line else "")


def test_other_processes_are_silent(capsys):
    state = SimpleNamespace(**{**vars(STATE), "is_world_process_zero": False})
    LogLines().on_log(None, state, None, logs={"loss": 1.0, "learning_rate": 0.1})
    assert capsys.readouterr().out == ""
