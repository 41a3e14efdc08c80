"""The tables on the screen and in RESULTS.md, where a module replaces its own rows only."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.harness import Answer, Row, cores

_HEADINGS = ("Module", "Question", "Ours", "Stock", "Ratio", "Required", "Limit", "To the limit", "Required", "Verdict")
_PACKAGES = ("torch", "torchvision", "transformers", "datasets", "accelerate", "pillow")
_TITLE = "# Results"
_INTRODUCTION = (
    "`python -m benchmarks` writes this file; [docs/benchmarks.md](../docs/benchmarks.md) describes what is measured.\n"
    "Ratios are medians over pairs, with the lowest and the highest pair in parentheses."
)


class OtherMachine(Exception):
    """The rows of RESULTS.md are from another machine, or from other versions."""


def describe_machine(cpu: bool = False) -> str:
    """Return one line on processor, GPU and versions, without the name of a computer or a user."""
    model = platform.processor() or platform.machine()
    if (information := Path("/proc/cpuinfo")).is_file():
        lines = information.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = "no GPU"
    if not cpu and torch.accelerator.is_available():
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "an accelerator"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return (
        f"Machine: {model}, {len(cores()) or os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {gpu};"
        f" Python {platform.python_version()}, {versions}."
    )


def cells(module: str, row: Row) -> list[str]:
    limit = ["-", "-"] if row.to_limit is None else [str(row.to_limit), row.to_limit.requirement()]
    verdict = "met" if row.met else "short"
    return [
        module,
        row.question,
        row.ours,
        row.stock,
        str(row.to_stock),
        row.to_stock.requirement(),
        row.limit,
        *limit,
        verdict,
    ]


def format_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    lines = [_HEADINGS, *lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    padded = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    padded.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(padded)


def merge_results(path: Path, answers: Mapping[str, Answer], order: Sequence[str], machine: str) -> None:
    """Write the answers to RESULTS.md in place of earlier ones of the same modules, in the order of all modules.

    Raises `OtherMachine` if the rows that would stay are from another machine: the rows of one table are comparable.
    """
    old_rows: dict[str, list[list[str]]] = {}
    old_notes: dict[str, list[str]] = {}
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            if line.startswith("| ") and not line.startswith(("| Module", "| --")):
                row = [cell.strip() for cell in line.strip("|").split(" | ")]
                old_rows.setdefault(row[0], []).append(row)
            elif line.startswith("- `"):
                old_notes.setdefault(line.split("`")[1], []).append(line)
        if machine not in text.splitlines() and old_rows.keys() - answers.keys():
            raise OtherMachine
    for module, answer in answers.items():
        old_rows[module] = [cells(module, row) for row in answer.rows]
        old_notes[module] = [f"- `{module}`: {note}" for note in answer.notes]
    rows = [row for module in order for row in old_rows.get(module, [])]
    notes = [note for module in order for note in old_notes.get(module, [])]
    parts = [_TITLE, _INTRODUCTION, machine, format_table(rows), "\n".join(notes)]
    path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
