"""Memory, files, threads and processes over 10,000 training steps with evaluations and checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.children import write_recipe
from benchmarks.harness import Answer, Ratio, Row, Session, datasets_cache, quiet
from benchmarks.images import hub_copy
from benchmarks.long_run_child import Holding
from benchmarks.ours import TINY_RESNET, prepare_ours
from benchmarks.steps import CROP_AND_FLIP
from benchmarks.stock import Schedule, twin

_BATCH = 16
_LOOKS = 2  # in an epoch
_NAMES = {
    "anonymous_megabytes": "MB of their own",
    "resident_megabytes": "MB with mapped files",
    "segments": "pieces of shared memory",
}


def slope(holdings: Sequence[Holding]) -> float:
    """Return the growth of anonymous memory in MB per 1,000 steps, by least squares."""
    steps = [holding.step / 1000 for holding in holdings]
    return float(np.polyfit(steps, [holding.anonymous_megabytes for holding in holdings], 1)[0])


def gained(holdings: Sequence[Holding]) -> float:
    """Return how many more files, threads, processes and segments the last tenth has than the first, by medians."""
    tenth = max(1, len(holdings) // 10)
    first, last = (np.median([holding.handles for holding in part]) for part in (holdings[:tenth], holdings[-tenth:]))
    return float(last - first)


def _hold(session: Session, every: int, *words: str) -> list[Holding]:
    """Run `benchmarks.long_run_child` to its end and return its report."""
    report = session.folder / "holdings.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.long_run_child", str(report), str(every), *words]
    completed = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # so small a network gains nothing by threads
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if completed.returncode:
        raise RuntimeError(f"the long run of {words[0]} failed:\n{completed.stdout[-2000:]}")
    return [Holding(**held) for held in json.loads(report.read_text())]


def _runs(session: Session, steps: int, images: int, workers: int) -> dict[str, list[Holding]]:
    """Run both sides to their end, with an evaluation and a checkpoint in each epoch, and return their reports."""
    path = hub_copy(session, "cifar10")
    common = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_steps": steps // 100,
        "dataloader_num_workers": workers,
        "max_steps": steps,
    }
    recipe = {
        "dataset": "cifar10",
        "dataset_path": str(path),
        "max_train_samples": images,
        "max_eval_samples": images // 4,
        "model_type": "resnet",
        "model_config": TINY_RESNET,
        "image_size": 32,
        "train_transforms": CROP_AND_FLIP,
        "global_batch_size": _BATCH,
        "per_device_eval_batch_size": _BATCH,
        # Both ways of reading are covered: from the file of decoded images, and each image from the table.
        "decode_cache": "never" if workers else "always",
        "report_to": "none",
        "overwrite_output_dir": True,
        "use_cpu": session.cpu,
        **common,
    }
    every = images // _BATCH // _LOOKS
    schedule = Schedule(_BATCH, max_steps=steps)
    model = session.folder / "start-of-long-run"
    settings = {key: recipe[key] for key in ("model_type", "model_config", "image_size", "dataset", "dataset_path")}
    with datasets_cache(session):
        prepared = prepare_ours(session, schedule, max_train_samples=images, **settings)
        with quiet():
            twin(prepared.trainer.model).cpu().save_pretrained(model)
        theirs = {"path": str(path), "model": str(model), "images": images, "batch": _BATCH, "cpu": session.cpu}
        theirs |= {"output": str(session.folder), "settings": common}
        return {
            "ours": _hold(session, every, *write_recipe(session, f"long-run-{workers}", recipe)),
            "stock": _hold(session, every, "stock", json.dumps(theirs)),
        }


def plot(runs: dict[str, list[Holding]]) -> Figure:
    """Draw memory and the other counts over the steps, one line per run."""
    figure = Figure(figsize=(10, 4), dpi=90, layout="constrained")
    memory, handles = figure.subplots(1, 2)
    for name, holdings in runs.items():
        steps = [holding.step for holding in holdings]
        style = {"label": name, "linewidth": 1.2, "linestyle": "-" if name.startswith("ours") else "--"}
        memory.plot(steps, [holding.anonymous_megabytes for holding in holdings], **style)
        handles.plot(steps, [holding.handles for holding in holdings], **style)
    memory.set(title="anonymous memory with workers, MB", xlabel="optimizer step", ylim=(0, None))
    handles.set(title="files + threads + processes + shared segments", xlabel="optimizer step", ylim=(0, None))
    handles.yaxis.set_major_locator(MaxNLocator(integer=True))
    handles.legend()
    return figure


def _rows(words: str, steps: int, both: dict[str, list[Holding]]) -> list[Row]:
    """Return the growth of memory and of the other counts from the end of the first epoch on."""
    slopes = {side: slope(holdings[_LOOKS:]) for side, holdings in both.items()}
    more = {side: gained(holdings[_LOOKS:]) for side, holdings in both.items()}
    return [
        Row(
            f"growth of memory in 1,000 of {steps:,} steps, {words}",
            f"{slopes['ours']:.2f} MB",
            f"{slopes['stock']:.2f} MB",
            Ratio([slopes["ours"]], 1, False, " MB"),
        ),
        Row(
            f"files, threads, processes more after {steps:,} steps, {words}",
            f"{more['ours']:g}",
            f"{more['stock']:g}",
            Ratio([more["ours"]], 0, False),
        ),
    ]


def _note(words: str, holdings: Sequence[Holding]) -> str:
    """Return the range of each count after the first epoch, as a sentence."""
    held = []
    for name in ("anonymous_megabytes", "resident_megabytes", "files", "threads", "processes", "segments"):
        values = [getattr(holding, name) for holding in holdings[_LOOKS:]]
        held.append(f"{min(values):.0f} to {max(values):.0f} {_NAMES.get(name, name)}")
    return f"Ours with {words}, after the first epoch: {', '.join(held)}."


def measure(session: Session) -> Answer:
    if not Path("/proc/self/smaps_rollup").exists():
        return Answer(notes=["Skipped: this system does not report a process's memory (/proc/self/smaps_rollup)."])
    steps, images = session.size(10_000, 100), session.size(3_200, 64)
    answer = Answer()
    runs: dict[str, Any] = {}
    for workers, words in ((0, "no loader workers"), (2, "2 loader workers")):
        both = _runs(session, steps, images, workers)
        runs |= {f"{side}, {words}": holdings for side, holdings in both.items()}
        answer.rows += _rows(words, steps, both)
        answer.notes.append(_note(words, both["ours"]))
    if session.plots is not None:
        plot(runs).savefig(session.plots / "long_run.png")
        answer.notes.append("All four runs are drawn in [long_run.png](long_run.png).")
    return answer
