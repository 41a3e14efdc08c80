"""The time of `hf-finetune --help`, as a multiple of the time of `python -c pass`."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.harness import Answer, Ratio, Row, Session, alternate, milliseconds, stopwatch


def measure(session: Session) -> Answer:
    def process(*words: str) -> float:
        return stopwatch(lambda: subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL))

    sides = {
        "ours": lambda: process("-m", "hf_finetune", "--help"),
        "pass": lambda: process("-c", "pass"),
    }
    alternate(sides, 1)  # files into the page cache
    samples = alternate(sides, session.size(max(11, session.pairs), 1))
    ratio = Ratio([ours / nothing for ours, nothing in zip(samples["ours"], samples["pass"], strict=True)], 10, False)
    shown = {name: milliseconds(statistics.median(values)) for name, values in samples.items()}
    return Answer([Row("hf-finetune --help", shown["ours"], f"{shown['pass']} (python -c pass)", ratio)])
