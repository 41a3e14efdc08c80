"""What a killed process runs: the real command, with a word on what it is doing at each instant for who kills it.

The forkserver imports this module, and with it the whole package, once; each run is then a process of its own that
starts at once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import hf_finetune.training.frozen.probe  # it is imported late, and so here, once
import hf_finetune.training.result
import hf_finetune.training.run
from hf_finetune.cli.main import main
from hf_finetune.training.trainer import ImageClassificationTrainer

PHASES = ("start-up", "training", "evaluation", "saving", "result")
START, TRAINING, EVALUATION, SAVING, RESULT = range(5)
HISTORY_FILE = "history.json"
# What the numbers that parent and child share mean.
PHASE, STEP, SAVES, EVALUATIONS = range(4)


def run_command(words: Sequence[str], environment: Mapping[str, str], log: str, shared: Any) -> None:
    """Runs `hf-finetune train` with `words`, its output added to the file `log`, and exits with its code."""
    os.environ.update(environment)
    os.setpgrp()  # so that a signal can be sent to it and its workers
    multiprocessing.set_start_method("fork", force=True)  # of loaders' workers, as it is in the real command
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    torch.set_num_threads(1)
    _tell_what_is_done(shared)
    code = main(["train", *words])
    sys.stdout.flush()
    sys.exit(code)


def _tell_what_is_done(shared: Any) -> None:
    def told(name: str, phase: int, afterwards: int | None = None, counter: int | None = None) -> None:
        method = getattr(ImageClassificationTrainer, name)

        def telling(self: ImageClassificationTrainer, *args: Any, **kwargs: Any) -> Any:
            before, shared[PHASE] = shared[PHASE], phase
            if counter is not None:
                shared[counter] += 1
            try:
                return method(self, *args, **kwargs)
            finally:
                shared[PHASE] = before if afterwards is None else afterwards

        setattr(ImageClassificationTrainer, name, telling)

    told("train", TRAINING, RESULT)
    told("evaluate", EVALUATION, counter=EVALUATIONS)
    told("_save_checkpoint", SAVING, counter=SAVES)

    after_step = ImageClassificationTrainer._maybe_log_save_evaluate

    def counting(self: ImageClassificationTrainer, *args: Any, **kwargs: Any) -> None:
        shared[STEP] = self.state.global_step
        after_step(self, *args, **kwargs)

    ImageClassificationTrainer._maybe_log_save_evaluate = counting

    save_result = hf_finetune.training.result.save_result

    def keeping_history(folder: Path, record: Any) -> None:
        (folder / HISTORY_FILE).write_text(json.dumps(record.log_history))
        save_result(folder, record)

    hf_finetune.training.result.save_result = keeping_history
