"""A checkpoint that somebody else wrote: nothing of it is run, and the one before it is used."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_finetune import finetune
from hf_finetune.errors import UserError
from hf_finetune.training.checkpoints.store import find_fault, list_checkpoints, publish
from hf_finetune.training.checkpoints.usable import why_unusable
from tests.helpers.networks import make_model
from tests.helpers.tiny import write_recipe
from tests.helpers.trainers import make_trainer

_PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
_FILES = (*_PICKLED, "model.safetensors", "resume_state.json", "trainer_state.json")
_SETTINGS = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 2}


class Evil:
    """Writes a file where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newest of the two checkpoints of a run."""
    folder = tmp_path_factory.mktemp("trained")
    make_trainer(folder, make_model("resnet"), **_SETTINGS).train()
    return list_checkpoints(folder)[0]


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, with the one before."""
    shutil.copytree(trained.parent, tmp_path / "run")
    return tmp_path / "run" / trained.name


def list_anew(checkpoint: Path) -> Path:
    """Give a checkpoint the manifest of what it holds, as whoever has changed it can."""
    unfinished = checkpoint.parent / ".unfinished" / checkpoint.name
    unfinished.parent.mkdir(exist_ok=True)
    (checkpoint / "manifest.json").unlink()
    checkpoint.rename(unfinished)
    publish(unfinished, checkpoint.parent)
    assert find_fault(checkpoint) is None
    return checkpoint


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_what_a_run_has_written_can_be_used(checkpoint: Path):
    assert why_unusable(checkpoint) is None
    torch.save({"scale": 1.0, "growth_factor": 2.0}, checkpoint / "scaler.pt")
    torch.save({"state": {}}, checkpoint / "optimizer.bin")
    assert why_unusable(list_anew(checkpoint)) is None


@pytest.mark.parametrize("old_format", [True, False])
@pytest.mark.parametrize(
    ("name", "is_listed"),
    [(name, True) for name in _PICKLED]
    + [(name, False) for name in ("rng_state_0.pth", "scaler.pt", "optimizer.bin", "step8/rank_0.pt")],
)
def test_no_pickle_is_run(checkpoint: Path, tmp_path: Path, name: str, old_format: bool, is_listed: bool):
    (checkpoint / name).parent.mkdir(exist_ok=True)
    torch.save(
        {"state": {}, "param_groups": [], "evil": Evil(tmp_path / "canary")},
        checkpoint / name,
        _use_new_zipfile_serialization=not old_format,
    )
    fault = why_unusable(list_anew(checkpoint) if is_listed else checkpoint)
    code = f"holds a Python object ({os.name}.mkdir), which may run code and is not opened"
    assert fault == f"{name} {'is not a file of torch.save' if old_format else code}"
    assert not (tmp_path / "canary").exists()


def test_no_pickle_of_fsdp_is_run(checkpoint: Path, tmp_path: Path):
    import torch.distributed.checkpoint as sharded

    sharded.save({"model": make_model("resnet").state_dict(), "step": 5}, checkpoint_id=checkpoint / "model_0")
    assert why_unusable(list_anew(checkpoint)) is None
    (checkpoint / "model_0/.metadata").write_bytes(pickle.dumps(Evil(tmp_path / "canary")))
    fault = why_unusable(list_anew(checkpoint))
    assert fault == f"model_0/.metadata holds a Python object ({os.name}.mkdir), which may run code and is not opened"
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "damage", [lambda content: os.urandom(500), lambda content: content[:-20], lambda content: b""]
)
@pytest.mark.parametrize("name", _FILES)
def test_garbage_is_named_although_it_is_listed(checkpoint: Path, name: str, damage: Callable[[bytes], bytes]):
    (checkpoint / name).write_bytes(damage((checkpoint / name).read_bytes()))
    fault = why_unusable(list_anew(checkpoint))
    assert fault is not None and fault.startswith(f"{name} is not ")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("trainer_state.json", lambda state: state.update(global_step="8")),
        ("trainer_state.json", lambda state: state.update(global_step=-1)),
        ("trainer_state.json", lambda state: state.update(log_history=[1])),
        ("trainer_state.json", lambda state: state.update(best_model_checkpoint=5)),
        ("trainer_state.json", lambda state: state.update(unheard_of=5)),
        ("resume_state.json", lambda state: state.pop("running_loss")),
        ("resume_state.json", lambda state: state["running_loss"].update(before="1")),
        ("resume_state.json", lambda state: state["running_loss"].update(since_log=[])),
        ("resume_state.json", lambda state: state.update(extensions=[1])),
    ],
)
def test_states_of_another_kind(checkpoint: Path, name: str, change: Callable[[dict[str, Any]], object]):
    change_json(checkpoint / name, change)
    assert why_unusable(list_anew(checkpoint)) == f"{name} is not of the kind that a run writes"


@pytest.mark.parametrize(
    ("name", "content"),
    [("optimizer.pt", [1]), ("optimizer.pt", {}), ("rng_state.pth", {"python": 5}), ("scheduler.pt", torch.ones(3))],
)
def test_data_of_another_kind(checkpoint: Path, name: str, content: Any):
    torch.save(content, checkpoint / name)
    assert why_unusable(list_anew(checkpoint)) == f"{name} is not of the kind that a run writes"


def change_optimizer(checkpoint: Path) -> str:
    torch.save({"state": {}, "param_groups": [{"params": [0]}]}, checkpoint / "optimizer.pt")
    return r"optimizer\.pt and scheduler\.pt cannot be restored"


def change_scheduler(checkpoint: Path) -> str:
    torch.save({"_schedulers": 5}, checkpoint / "scheduler.pt")
    return r"optimizer\.pt and scheduler\.pt cannot be restored"


def change_shapes(checkpoint: Path) -> str:
    weights = {name: tensor.flatten() for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return "its weights cannot be restored"


def remove_weights(checkpoint: Path) -> str:
    save_file({"x": torch.ones(1)}, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return "its weights cannot be restored"


def change_extensions(checkpoint: Path) -> str:
    file = checkpoint / "resume_state.json"
    change_json(file, lambda state: [saved.update(skipped_steps=5) for saved in state["extensions"].values()])
    return r"resume_state\.json cannot be restored"


@pytest.mark.parametrize(
    "change", [change_optimizer, change_scheduler, change_shapes, remove_weights, change_extensions]
)
def test_states_of_another_network_are_refused_in_one_line(checkpoint: Path, change: Callable[[Path], str]):
    words = change(checkpoint)
    assert why_unusable(list_anew(checkpoint)) is None  # without the network nobody can know
    trainer = make_trainer(checkpoint.parent, make_model("resnet"), **_SETTINGS | {"num_train_epochs": 3})
    with pytest.raises(
        UserError, match=rf"checkpoint-8: {words} in this run \(.+\); remove this checkpoint, and the s"
    ):
        trainer.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("is_last", [False, True])
def test_a_run_passes_over_an_evil_checkpoint(image_folder: Path, tmp_path: Path, logged: list[str], is_last: bool):
    settings = {"dataset": str(image_folder), "output_dir": str(tmp_path / "run"), "save_total_limit": 3}
    recipe = str(write_recipe(tmp_path))
    finished = finetune(recipe, **settings)
    (finished.output_dir / "metrics.json").unlink()  # as if it had been killed before its end
    newest, *earlier = list_checkpoints(finished.output_dir)
    for old in earlier if is_last else ():
        shutil.rmtree(old)
    torch.save(Evil(tmp_path / "canary"), newest / "optimizer.pt")
    list_anew(newest)
    again = finetune(recipe, **settings)
    words = (
        f"Note: {newest.name} is corrupt: optimizer.pt holds a Python object ({os.name}.mkdir), which may run code and"
    )
    assert any(line.startswith(words) for line in logged)
    resumed = any("it resumes from" in line for line in logged)
    assert resumed == (not is_last)
    assert again.metrics["test_accuracy"] == finished.metrics["test_accuracy"]
    assert (
        not (tmp_path / "canary").exists() and (newest.with_name(f"corrupt-{newest.name}") / "optimizer.pt").is_file()
    )
