"""The checks of training that depend on the machine: its devices, its processes and what is installed."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from hf_finetune.config.training_keys import FP16
from hf_finetune.errors import UserError

if TYPE_CHECKING:
    from hf_finetune.config.training import FinetuneArguments


def check_trackers(args: FinetuneArguments, trackers: Collection[str]) -> None:
    """Check that each name of `report_to` is one of `trackers`, those that are installed."""
    reports = args.report_to if isinstance(args.report_to, list) else []  # Transformers makes a list of a word
    if any(not isinstance(name, str) for name in reports):
        raise UserError(f"report_to is {reports}; use names, such as [tensorboard], or none.")
    absent = set(reports) - set(trackers)
    if absent:
        raise UserError(f"report_to: {', '.join(sorted(absent))} is unknown or not installed; install it, or use none.")


def check_devices(args: FinetuneArguments) -> None:
    """Check what needs a GPU, and that all launched processes train together."""
    if args.precision == FP16 and args.device.type == "cpu":
        raise UserError("fp16 needs a GPU, and this run is on the CPU; use --precision bf16, or leave it out.")
    if args.sync_batchnorm and args.device.type in ("cpu", "mps"):
        raise UserError("sync_batchnorm needs GPUs, and this run is on the CPU; leave it out.")
    on_cpus = args.distributed_state.distributed_type in ("NO", "MULTI_CPU")
    for name, key in (("FSDP", args.fsdp), ("DeepSpeed", args.deepspeed)):
        is_asked = key or os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() == "true"
        if is_asked and on_cpus and args.device.type == "cpu":
            raise UserError(
                f"{name} needs GPUs, and this run is on the CPU, where nothing would be divided; use"
                " --config_file scripts/accelerate/ddp.yaml."
            )
    if args.n_gpu > 1:  # it has been set to 1, which a version of Transformers may overrule
        raise UserError(
            f"One process would train on {args.n_gpu} GPUs, where Transformers multiplies the loss by their number; use"
            f" accelerate launch -q --num_processes {args.n_gpu} scripts/run_finetune.py ..., or set"
            " CUDA_VISIBLE_DEVICES=0."
        )
    check_processes(args.world_size)


def check_processes(world_size: int) -> None:
    """Check that all launched processes train together.

    Args:
        world_size: How many processes have found each other.

    Raises:
        UserError: Other processes were launched that would train on their own.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != world_size:
        raise UserError(
            f"{launched} processes were launched, but they do not train together and would write into one folder."
            f" On a machine without GPU use: torchrun --standalone --nproc_per_node {launched}"
            " scripts/run_finetune.py --use_cpu ..."
        )
