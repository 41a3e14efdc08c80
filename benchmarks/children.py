"""Start measured processes and read their reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import WARM_UP, Session

_REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ChildReport:
    """`started` and `stamps`, the ends of optimizer steps, are times of day; `anonymous` and `resident` are peaks.

    `processor` are seconds of processor time, user and system, until the last of these steps.
    """

    started: float
    stamps: Sequence[float]
    processor: float
    anonymous_megabytes: float
    resident_megabytes: float

    @property
    def seconds_to_first_step(self) -> float:
        return self.stamps[0] - self.started

    @property
    def seconds_per_step(self) -> float:
        return (self.stamps[-1] - self.stamps[WARM_UP - 1]) / (len(self.stamps) - WARM_UP)


def run_child(
    session: Session,
    steps: int,
    words: Sequence[str],
    launcher: Sequence[str] = (sys.executable, "-m"),
    one_core: bool = False,
    **environment: str,
) -> ChildReport:
    """Run `benchmarks.child` through `steps` optimizer steps.

    `words` are "ours", "stock" or "torchvision" and its flags. `one_core` pins each process to its own core. Raises
    RuntimeError with the end of its output if it fails.
    """
    with tempfile.TemporaryDirectory(dir=session.folder) as folder:
        report = Path(folder) / "report.json"
        command = [*launcher, "benchmarks.child", *(["--one_core"] if one_core else []), str(report), str(steps)]
        started = time.time()
        completed = subprocess.run(
            [*command, *words],
            cwd=_REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if not report.exists():
            raise RuntimeError(f"{' '.join(words)} did not come to its step {steps}:\n{completed.stdout[-2000:]}")
        told = json.loads(report.read_text())
    return ChildReport(started, told["stamps"], told["processor"], told["RssAnon"], told["VmRSS"])


def write_recipe(session: Session, name: str, values: Mapping[str, Any]) -> list[str]:
    """Write a recipe, in the precision of the other sides, and return the arguments with which a child runs it."""
    path = session.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"precision": "float32", **values}), encoding="utf-8")
    return ["ours", "--recipe", str(path), "--output_dir", str(session.folder / f"output-{name}")]
