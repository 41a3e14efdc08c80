"""Run a whole training of ours or of stock in a process of its own, and record its memory, files and threads.

python -m benchmarks.long_run_child REPORT EVERY ours WORDS...
python -m benchmarks.long_run_child REPORT EVERY stock JSON

REPORT is written as a JSON file: one `Holding` in the middle of every EVERY optimizer steps.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Holding:
    """What a process and its children use together after an optimizer step.

    `anonymous_megabytes` is private memory, or memory that they share with each other; `resident_megabytes` counts the
    pages of mapped files as well, which the system can drop. `files` are open file descriptors, `segments` mapped
    pieces of /dev/shm.
    """

    step: int
    anonymous_megabytes: float
    resident_megabytes: float
    files: int
    threads: int
    processes: int
    segments: int

    @property
    def handles(self) -> int:
        return self.files + self.threads + self.processes + self.segments


def look(step: int) -> Holding:
    """Return the usage of this process and its children. Pages that several of them share are counted once."""
    here = psutil.Process()
    family = [here, *here.children(recursive=True)]
    memory = {"Pss": 0, "Pss_Anon": 0, "Pss_Shmem": 0}
    segments = 0
    for member in family:
        folder = Path("/proc", str(member.pid))
        for line in (folder / "smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in memory:
                memory[name] += int(value.split()[0])
        segments += (folder / "maps").read_text().count(" /dev/shm/")
    return Holding(
        step,
        (memory["Pss_Anon"] + memory["Pss_Shmem"]) / 1024,
        memory["Pss"] / 1024,
        sum(member.num_fds() for member in family),
        sum(member.num_threads() for member in family),
        len(family),
        segments,
    )


def _train_stock(told: dict[str, Any]) -> None:
    from transformers import AutoModelForImageClassification

    from benchmarks.harness import Session
    from benchmarks.images import CIFAR10_MEAN, CIFAR10_STD
    from benchmarks.steps import CROP_AND_FLIP
    from benchmarks.stock import Schedule, load_stock_dataset, set_stock_transform, stock_trainer

    dataset = load_stock_dataset(Path(told["path"]))
    train, test = (
        set_stock_transform(dataset[split].select(range(rows)), CROP_AND_FLIP, CIFAR10_MEAN, CIFAR10_STD)
        for split, rows in (("train", told["images"]), ("test", told["images"] // 4))
    )
    session = Session(Path(told["output"]), cpu=told["cpu"])
    network = AutoModelForImageClassification.from_pretrained(told["model"])
    stock_trainer(session, network, Schedule(told["batch"]), train, test, **told["settings"]).train()


def main(words: list[str]) -> None:
    report, every, side, *rest = words
    holdings: list[Holding] = []
    steps = 0

    def after_step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps % int(every) == int(every) // 2:
            holdings.append(look(steps))

    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(after_step)
    if side == "stock":
        _train_stock(json.loads(rest[0]))
    else:
        from hf_finetune.cli.main import main as train  # as the command is run

        if code := train(["train", *rest]):
            sys.exit(code)
    Path(report).write_text(json.dumps([asdict(holding) for holding in holdings]))


if __name__ == "__main__":
    main(sys.argv[1:])
