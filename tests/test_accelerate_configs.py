"""The configs of Accelerate: its own loader and launcher read them, and each says the command that runs it."""

from __future__ import annotations

import shlex

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from tests.helpers.processes import REPOSITORY

CONFIGS = sorted((REPOSITORY / "scripts" / "accelerate").glob("*.yaml"))
KINDS = {
    "ddp": "MULTI_GPU",
    "fsdp2": "FSDP",
    "deepspeed_zero2": "DEEPSPEED",
    "deepspeed_zero3": "DEEPSPEED",
}


def test_all_are_known():
    assert {path.stem for path in CONFIGS} == set(KINDS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it(path, monkeypatch):
    config = load_config_from_file(str(path))
    assert str(config.distributed_type.value) == KINDS[path.stem]
    if "zero" in path.stem:
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])
    if "fsdp" in path.stem:
        assert config.fsdp_config["fsdp_version"] == 2
    commands = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#   accelerate")]
    assert commands
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("accelerate.commands.launch.is_deepspeed_available", lambda: True, raising=False)
    for command in commands:
        parsed = launch_command_parser().parse_args(shlex.split(command)[2:])
        assert parsed.config_file == str(path.relative_to(REPOSITORY))
        launched, _, _ = _validate_launch_command(parsed)
        assert (
            launched.training_script == "scripts/run_finetune.py" and (REPOSITORY / launched.training_script).is_file()
        )
        chosen = {"MULTI_GPU": "multi_gpu", "FSDP": "use_fsdp", "DEEPSPEED": "use_deepspeed"}[KINDS[path.stem]]
        assert getattr(launched, chosen)


def test_fsdp_on_the_cpu_is_refused(tmp_path, monkeypatch):
    """Accelerate would divide nothing there, and say nothing."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP needs GPUs, and this run is on the CPU"):
        FinetuneArguments(output_dir=str(tmp_path), use_cpu=True)
