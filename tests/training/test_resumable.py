"""A run that is stopped and resumed ends as one that was not: weights, log, best checkpoint, random numbers."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification, set_seed

from hf_finetune.errors import Interrupted, UserError
from hf_finetune.training.checkpoints.store import find_fault, list_checkpoints
from tests.helpers.networks import CLASSES, SIDE, make_model
from tests.helpers.trainers import make_trainer

_STEPS = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 4}
_EPOCHS = {"eval_strategy": "epoch", "save_strategy": "epoch"}
_PERSISTENT = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}


def model_with_dropout() -> ViTForImageClassification:
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(
        ViTConfig(image_size=SIDE, patch_size=4, num_labels=CLASSES, hidden_dropout_prob=0.2, **sizes)
    )


class AtStep(TrainerCallback):
    """Does something after an optimizer step."""

    def __init__(self, step: int, what: Any) -> None:
        self.step, self.what = step, what

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.what()


def build(folder: Path, callback: TrainerCallback | None = None, **settings: Any):
    """A run of 3 epochs of 6 steps, the last of an epoch with fewer images."""
    settings = {"num_train_epochs": 3, "logging_steps": 5, "save_total_limit": 2, "global_batch_size": 8, **settings}
    items = ({"RandomCrop": {"size": SIDE, "padding": 2}},)
    trainer = make_trainer(folder, model_with_dropout(), count=44, items=items, **settings)
    if callback is not None:
        trainer.add_callback(callback)
    return trainer


def run(trainer: Any, checkpoint: Path | None = None) -> Any:
    """Train, and end the workers."""
    try:
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    finally:
        trainer.end()
    return trainer


def end_of(trainer: Any) -> dict[str, Any]:
    """What must be equal."""
    state = trainer.state
    return {
        "history": [
            {key: value for key, value in entry.items() if not key.endswith(("_runtime", "_per_second"))}
            for entry in state.log_history
        ],
        "best": (state.best_global_step, state.best_metric, Path(state.best_model_checkpoint or "").name),
        "weights": {name: tensor.tolist() for name, tensor in trainer.model.state_dict().items()},
    }


class StopWatch(TrainerCallback):
    """Measures the time from the begin of an epoch to that of its first step."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.process_time()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.process_time() - self.began


def send_to_oneself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Killed(Exception):
    pass


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (_EPOCHS, (1, 9, 18)),
        (_EPOCHS | {"per_device_train_batch_size": 2}, (4,)),
        (_STEPS | {"per_device_train_batch_size": 4, "load_best_model_at_end": True}, (2, 7)),
        (_STEPS | {"max_steps": 15, "logging_strategy": "epoch"}, (15,)),
        (_EPOCHS | _PERSISTENT, (3,)),
        (_EPOCHS | {"save_strategy": "best", "load_best_model_at_end": True, "save_total_limit": 1}, (8,)),
    ],
)
def test_a_run_that_a_signal_stopped_ends_as_if_it_had_not(tmp_path, settings, steps):
    undisturbed = run(build(tmp_path / "undisturbed", **settings))
    for step in steps:
        folder = tmp_path / str(step)
        with pytest.raises(Interrupted, match=f"Interrupted by SIGTERM after step {step}; saved"):
            run(build(folder, AtStep(step, send_to_oneself), **settings))
        newest = list_checkpoints(folder)[0]
        assert newest.name == f"checkpoint-{step}" and find_fault(newest) is None
        assert not (folder / ".unfinished").exists()
        resumed = run(build(folder, **settings), newest)
        assert end_of(resumed) == end_of(undisturbed)


class AfterLastStep(TrainerCallback):
    """Sends a signal when the mean loss of the whole run is logged, after the last checkpoint."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "train_loss" in logs:
            send_to_oneself()


@pytest.mark.parametrize("settings", [_EPOCHS, _EPOCHS | {"save_strategy": "no"}, _STEPS | {"max_steps": 7}])
@pytest.mark.parametrize("late", [False, True])
def test_a_signal_after_the_last_step_says_that_the_run_is_saved(tmp_path, settings, late):
    undisturbed = build(tmp_path / "undisturbed", **settings)
    undisturbed.train()
    stopped = build(tmp_path / "run", AfterLastStep() if late else None, **settings)
    finalize = stopped._finalize_training
    stopped._finalize_training = lambda *rest: (late or send_to_oneself(), finalize(*rest))[1]
    last = settings.get("max_steps", 18)
    if late and settings["save_strategy"] == "no":
        received = []
        before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
        stopped.train()
        signal.signal(signal.SIGTERM, before)
        assert received == [signal.SIGTERM]  # nothing was saved, so the run does not claim it
        return
    with pytest.raises(Interrupted, match=f"Interrupted by SIGTERM after step {last}; saved"):
        stopped.train()
    newest = list_checkpoints(tmp_path / "run")[0]
    assert newest.name == f"checkpoint-{last}" and find_fault(newest) is None
    resumed = build(tmp_path / "run", **settings)
    resumed.train(resume_from_checkpoint=str(newest))
    assert end_of(resumed) == end_of(undisturbed)


@pytest.mark.parametrize(("settings", "step", "lost"), [(_EPOCHS, 11, 5), (_STEPS, 7, 3)])
def test_a_run_that_was_killed_ends_as_if_it_had_not(tmp_path, settings, step, lost):
    undisturbed = build(tmp_path / "undisturbed", **settings)
    undisturbed.train()
    with pytest.raises(Killed):
        build(tmp_path / "run", AtStep(step, kill), **settings).train()
    newest = list_checkpoints(tmp_path / "run")[0]
    assert newest.name == f"checkpoint-{step - lost}"
    resumed = build(tmp_path / "run", **settings)
    resumed.train(resume_from_checkpoint=str(newest))
    assert end_of(resumed) == end_of(undisturbed)


def test_the_best_that_is_lost_is_said(tmp_path, capsys):
    settings = _EPOCHS | {"load_best_model_at_end": True, "save_total_limit": None}
    build(tmp_path, **settings).train()
    newest, state = list_checkpoints(tmp_path)[0], "trainer_state.json"
    best = Path(json.loads((newest / state).read_text())["best_model_checkpoint"])
    for checkpoint in list_checkpoints(tmp_path):
        if checkpoint not in (newest, best):
            assert find_fault(checkpoint) is None
    if best == newest:
        pytest.skip("the last was the best")
    (best / "model.safetensors").unlink()
    resumed = build(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(newest))
    assert f"the best checkpoint so far, {best.name}, is lost (model.safetensors is missing)" in capsys.readouterr().out


def test_both_signals_are_left_to_the_system_if_wished(tmp_path):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        build(tmp_path, AtStep(2, send_to_oneself), max_steps=3, save_on_signal=False).train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM] and list_checkpoints(tmp_path) == []


def test_a_full_disk_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch):
    trainer = build(tmp_path, **_EPOCHS)

    def fail(output_dir: str) -> None:
        if trainer.state.global_step > 6:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(trainer, "_save_rng_state", fail)
    with pytest.raises(UserError, match="checkpoint-6 is whole, and the same command resumes from it"):
        trainer.train()
    assert [checkpoint.name for checkpoint in list_checkpoints(tmp_path)] == ["checkpoint-6"]


class CountedRows(Dataset):
    """50,000 images that count how often they are asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 50_000

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        self.asked += rows
        count = len(rows)
        return {
            "pixel_values": torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8),
            "labels": torch.zeros(count, dtype=torch.int64),
            "draw_keys": torch.tensor(rows),
        }


def test_skipping_to_the_middle_of_an_epoch_decodes_nothing_and_takes_no_time(tmp_path):
    def make(stop: int):
        trainer = make_trainer(tmp_path, make_model("resnet"), global_batch_size=8, num_train_epochs=1)
        trainer.train_dataset = CountedRows()
        trainer.add_callback(AtStep(stop, send_to_oneself))
        return trainer

    first = make(2)
    with pytest.raises(Interrupted):
        first.train()
    checkpoint = list_checkpoints(tmp_path)[0]
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    (checkpoint / "trainer_state.json").write_text(json.dumps({**state, "global_step": 3125}))
    resumed, watch = make(3126), StopWatch()
    resumed.add_callback(watch)
    with pytest.raises(Interrupted):
        resumed.train(resume_from_checkpoint=str(checkpoint))
    assert len(resumed.train_dataset.asked) <= 2 * 8  # the batch of the step, and the one that is fetched ahead
    assert not set(resumed.train_dataset.asked) & set(first.train_dataset.asked)
    assert watch.seconds < 1.0
    print(f"skipped to the middle of an epoch of 50,000 images in {watch.seconds:.3f} s")


def test_what_a_checkpoint_holds(tmp_path):
    build(tmp_path, **_EPOCHS).train()
    newest = list_checkpoints(tmp_path)[0]
    assert not (newest / "training_args.bin").exists()  # a pickle
    assert load_file(newest / "model.safetensors")
    assert {path.name for path in newest.iterdir()} == {
        "config.json", "manifest.json", "model.safetensors", "optimizer.pt", "preprocessor_config.json",
        "rng_state.pth", "resume_state.json", "scheduler.pt", "trainer_state.json",
    }  # fmt: skip
