"""The results as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.programs import PEERS
from benchmarks.peers.workloads import Workload

_HEAD = (
    "| Program | ms a step (CPU) | Process start to first step, s | Whole command: CPU s (wall s) | Peak memory, MB |"
    " Accuracy |\n| --- | --- | --- | --- | --- | --- |"
)


def markdown(
    lines: Sequence[Mapping[str, Any]], workloads: Mapping[str, Workload], peers: Sequence[str], rounds: int
) -> str:
    """Return a table for each workload: medians over the rounds, then what differs between the programs."""
    parts = []
    for name, workload in workloads.items():
        asked = {"workload": name, "images": workload.images}
        measured = [line for line in lines if asked.items() <= line.items()]
        rows = [_row(peer, [line for line in measured if line["peer"] == peer], workload) for peer in peers]
        steps = workload.images // workload.batch
        parts.append(
            f"**{workload.heading}**, {workload.images:,} images, {steps} steps of {workload.batch}; medians of"
            f" {rounds} rounds:\n\n{_HEAD}\n" + "\n".join(rows)
        )
        others = {line["peer"]: line["steps"] for line in measured if line["steps"] != steps}
        parts += [f"{peer} made {count} steps." for peer, count in others.items()]
    parts.append("\n".join(f"- {peer} {PEERS[peer].differs}." for peer in peers))
    return "\n\n".join(parts)


def _row(peer: str, runs: Sequence[Mapping[str, Any]], workload: Workload) -> str:
    if not runs:
        return f"| {peer} | | | | | |"
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0] if isinstance(runs[0][key], float)}
    accuracy = f"{100 * middle['accuracy']:.1f} %" if workload.tests else "-"
    return (
        f"| {peer} | {middle['step']:,.0f} ({middle['step_processor']:,.0f}) | {middle['first_step']:.2f} |"
        f" {middle['processor']:.1f} ({middle['seconds']:.1f}) | {middle['megabytes']:,.0f} | {accuracy} |"
    )
