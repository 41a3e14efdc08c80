"""A training whose images or loss fail at a set moment, for the tests of `test_bad_data`.

python tests/faults/bad_data_run.py EVENT EPOCH [flags of hf-finetune train]

EVENT is `lose:PATH`, which overwrites an image; `kill`, which kills a loader's worker; or `nan`, which breaks the loss
of the last process at the second step of the epoch.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from hf_finetune.cli.main import main
from hf_finetune.training.trainer import ImageClassificationTrainer


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _kill_a_worker() -> None:
    while not _children():
        time.sleep(0.01)
    os.kill(_children()[0], signal.SIGKILL)


def _break_loss(trainer: ImageClassificationTrainer) -> None:
    whole, step = trainer.compute_loss_func, trainer.state.global_step + 2

    def broken(outputs: object, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        loss = whole(outputs, labels, num_items_in_batch)
        last = trainer.args.process_index == trainer.args.world_size - 1
        return loss * math.nan if last and trainer.state.global_step + 1 == step else loss

    trainer.compute_loss_func = broken


def run(event: str, epoch: int, words: list[str]) -> int:
    begin = ImageClassificationTrainer.set_epoch

    def begin_and_fail(trainer: ImageClassificationTrainer, begun: int) -> None:
        begin(trainer, begun)
        if begun != epoch:
            return
        if event.startswith("lose:"):
            Path(event.removeprefix("lose:")).write_text("no image")
        elif event == "kill":
            threading.Thread(target=_kill_a_worker, daemon=True).start()
        elif event == "nan":
            _break_loss(trainer)

    ImageClassificationTrainer.set_epoch = begin_and_fail
    return main(["train", *words])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
