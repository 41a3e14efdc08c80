"""What each process of a test of FSDP, DeepSpeed or DDP runs: an undisturbed run, and one that is stopped and resumed.

Accelerate divides weights over GPUs only. Here it takes CPUs for GPUs that talk by gloo; all else is as on a cluster.

torchrun --standalone --nproc_per_node 2 tests/faults/sharded.py IMAGES RECIPE FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ["ACCELERATE_TORCH_DEVICE"] = os.environ["DS_ACCELERATOR"] = "cpu"

import yaml
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import TrainerCallback

from hf_finetune import Interrupted, finetune
from hf_finetune.training.extensions import stop_signals
from hf_finetune.training.trainer import ImageClassificationTrainer

if {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & os.environ.keys():
    PartialState._prepare_backend = lambda self, cpu, sagemaker, backend=None: ("gloo", DistributedType.MULTI_GPU)


class StopAtStep3(TrainerCallback):
    """Asks for the end of the run in the middle of its first epoch."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def main(images: str, recipe: str, folder: str) -> None:
    settings = {**yaml.safe_load(Path(recipe).read_text()), "dataset": images}
    stop_signals._SECONDS_BETWEEN_AGREEMENTS = 0.0  # after each step, for these steps take milliseconds
    end, ImageClassificationTrainer.end = ImageClassificationTrainer.end, lambda trainer: None  # one group for all runs
    finetune(settings, output_dir=f"{folder}/undisturbed")
    try:
        finetune(settings, output_dir=f"{folder}/resumed", callbacks=[StopAtStep3])
    except Interrupted as interrupted:
        print(interrupted)
        finetune(settings, output_dir=f"{folder}/resumed")
    ImageClassificationTrainer.end = end


if __name__ == "__main__":
    main(*sys.argv[1:])
