"""How soon commands answer: mistakes, a recipe, and the class of one image."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Answer, Ratio, Row, Session, alternate
from benchmarks.images import photograph_folder
from hf_finetune.config.checkpoint_names import EMBEDDED_CHECKPOINTS

_CHECKPOINT = "resnet_small_cifar10"
_PREDICT_BARE = Path(__file__).with_name("predict_bare.py")
# Commands, the exit code of each, and the seconds that it may take.
_COMMANDS = (
    ("recipes show finetune", 0, 0.3),
    ("train --learning_rat 1", 2, 0.5),
    ("train --dataset nowhere", 2, 0.5),
    ("train --recipe nonsense", 2, 0.5),
    ("train --dataset digits --adam_beta1 many", 2, 0.5),
    ("train --dataset digits --freeze_epochs 300", 2, 0.5),
    (f"predict {_CHECKPOINT} missing.jpg", 2, 0.5),
    ("evaluate ./nowhere --dataset digits", 2, 0.5),
)


def measure(session: Session) -> Answer:
    spent: dict[str, list[float]] = {}

    def process(name: str, command: Sequence[str], code: int) -> float:
        before, began = os.times(), time.perf_counter()
        done = subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wall, after = time.perf_counter() - began, os.times()
        if done.returncode != code:
            raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-500:].decode()}")
        processor = after.children_user + after.children_system - before.children_user - before.children_system
        spent.setdefault(name, []).append(processor)
        return wall

    rows = []
    for command, code, limit in _COMMANDS:
        words = ["-m", "hf_finetune", *command.split()]
        one_side = {"ours": partial(process, command, words, code)}
        walls = alternate(one_side, session.pairs + 1)["ours"][1:]  # the first reads files into the page cache
        used = spent[command][1:]
        shown = f"{statistics.median(used):.2f} s of processor, {statistics.median(walls):.2f} s"
        rows.append(Row(f"hf-finetune {command}", shown, "-", Ratio(used, limit, False, " s")))

    checkpoint = EMBEDDED_CHECKPOINTS[_CHECKPOINT]
    image = next(path for path in sorted(photograph_folder(session, "imagenet", 8).rglob("*.*")) if path.is_file())
    sides = {
        "ours": partial(process, "ours", ["-m", "hf_finetune", "predict", str(checkpoint), str(image)], 0),
        "stock": partial(process, "stock", [str(_PREDICT_BARE), str(checkpoint), str(image)], 0),
    }
    walls_of = alternate(sides, session.pairs)
    times = [ours / stock for ours, stock in zip(spent["ours"], spent["stock"], strict=True)]
    figures = {
        side: f"{statistics.median(spent[side]):.2f} s of processor, {statistics.median(walls_of[side]):.2f} s"
        for side in sides
    }
    rows.append(Row("hf-finetune predict, one image", figures["ours"], figures["stock"], Ratio(times, 1.25, False)))
    note = (
        "The ratios are of the processor's time, user and system, which is the time on an idle machine: other processes"
        " delay both sides. Stock of predict is the shortest script with from_pretrained, Pillow and torch."
    )
    return Answer(rows, [note])
