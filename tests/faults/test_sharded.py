"""FSDP2, DeepSpeed and DDP on two processes train as one process does, and resume exactly."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file

from hf_finetune.training.checkpoints.store import STATE_FILE, list_checkpoints
from tests.helpers.processes import REPOSITORY, TWO_PROCESSES, run_command
from tests.helpers.tiny import TINY_RECIPE

pytestmark = pytest.mark.faults
SCRIPT = str(REPOSITORY / "tests" / "faults" / "sharded.py")
FAMILIES = {
    "vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    | {"image_size": 16, "patch_size": 4},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 16}
    | {"patch_size": 2, "drop_path_rate": 0.0},  # its draws differ between one process and two
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "resnet": TINY_RECIPE["model_config"],
}
# Weights after 8 steps that all processes compute in float32, in another order of additions.
TOLERANCE = 1e-5


def environment_of(config: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Returns the variables that `accelerate launch` sets for one of our configs."""
    monkeypatch.setattr("accelerate.commands.launch.is_deepspeed_available", lambda: True, raising=False)
    path = REPOSITORY / "scripts" / "accelerate" / f"{config}.yaml"
    words = ["--config_file", str(path), "--num_processes", "2", "--main_process_port", "0", SCRIPT]
    parsed, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    parsed.deepspeed_fields_from_accelerate_config = "zero_stage,gradient_accumulation_steps"
    is_deepspeed = config.startswith("deepspeed")
    set_for_it = prepare_deepspeed_cmd_env(parsed)[1] if is_deepspeed else prepare_multi_gpu_env(parsed)
    names = ("ACCELERATE_", "FSDP_")
    return {key: value for key, value in set_for_it.items() if key.startswith(names)}


def train(folder: Path, images: Path, launcher: list[str], family: str, environment: dict[str, str], **settings):
    """Returns the undisturbed run's folder, after a run of the same settings that is stopped and resumed."""
    folder.mkdir(exist_ok=True)
    recipe = folder / "recipe.yaml"
    settings = {
        **TINY_RECIPE,
        "model_type": family,
        "model_config": FAMILIES[family],
        "lr_scheduler_type": "linear",
        "lr_milestones": None,
        "learning_rate": 0.01,
        "num_train_epochs": 2,
        "use_cpu": False,
        **settings,
    }
    recipe.write_text(yaml.safe_dump(settings))
    completed = run_command([*launcher, SCRIPT, str(images), str(recipe), str(folder)], **environment)
    assert completed.returncode == 0, completed.stdout[-2000:] + completed.stderr[-5000:]
    assert "step 3" in completed.stdout
    return folder / "undisturbed"


def losses(folder: Path) -> list[float]:
    state = json.loads((list_checkpoints(folder)[0] / STATE_FILE).read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def check(run: Path, expected: Path) -> None:
    """Checks that two runs are one, but for rounding, and that the resumed run is exactly the undisturbed one."""
    ours, theirs = load_file(run / "model.safetensors"), load_file(expected / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=TOLERANCE, rtol=0)
    assert losses(run) == pytest.approx(losses(expected), abs=TOLERANCE)
    resumed = run.with_name("resumed")
    assert (resumed / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert losses(resumed) == losses(run)


@pytest.fixture(scope="module")
def one_process(image_folder, tmp_path_factory):
    """Returns, for a family, the folder of a run in one process."""
    folder, found = tmp_path_factory.mktemp("one"), {}

    def run(family: str) -> Path:
        if family not in found:
            found[family] = train(folder / family, image_folder, [sys.executable], family, {}, use_cpu=True)
        return found[family]

    return run


@pytest.mark.parametrize("family", ["vit", "swin", "convnext"])
def test_fsdp2(family, one_process, image_folder, tmp_path, monkeypatch):
    environment = environment_of("fsdp2", monkeypatch)
    check(train(tmp_path, image_folder, TWO_PROCESSES, family, environment), one_process(family))


def test_ddp(one_process, image_folder, tmp_path, monkeypatch):
    environment = environment_of("ddp", monkeypatch)
    check(train(tmp_path, image_folder, TWO_PROCESSES, "vit", environment, use_cpu=True), one_process("vit"))


def test_fsdp2_normalizes_batches_as_ddp_does(image_folder, tmp_path, monkeypatch):
    """Each process over its own images, so that it is another run than one process's; statistics are of the first."""
    divided = train(tmp_path / "fsdp2", image_folder, TWO_PROCESSES, "resnet", environment_of("fsdp2", monkeypatch))
    environment = environment_of("ddp", monkeypatch)
    copied = train(tmp_path / "ddp", image_folder, TWO_PROCESSES, "resnet", environment, use_cpu=True)
    check(divided, copied)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_deepspeed(stage, one_process, image_folder, tmp_path, monkeypatch):
    environment = environment_of(f"deepspeed_zero{stage}", monkeypatch)
    check(train(tmp_path, image_folder, TWO_PROCESSES, "vit", environment), one_process("vit"))


def test_a_mistake_is_found_before_the_weights_are_divided(image_folder, tmp_path, monkeypatch):
    """By the sanity check, which takes two images through the network while it is whole."""
    with pytest.raises(AssertionError, match="A first batch of images.* does not go through ViTFor"):
        train(
            tmp_path, image_folder, TWO_PROCESSES, "vit", environment_of("fsdp2", monkeypatch),
            model_config={**FAMILIES["vit"], "image_size": 32}, image_size=16,
        )  # fmt: skip
