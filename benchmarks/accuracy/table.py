"""The results as a Markdown table."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.images import TEST_IMAGES
from benchmarks.peers.programs import PEERS
from hf_finetune.evaluation.intervals import wilson


def markdown(lines: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> str:
    """Return a row for each program and number of images, with a column for each time.

    A cell has the median over the seeds, the 95 % interval (Wilson) of it as of one run, the seconds that it took, and
    the epochs.
    """
    head = f"| Training images | Program | {' | '.join(f'{minutes:g} min' for minutes in options.minutes)} | Settings |"
    rows = [head, f"| --- | --- |{' --- |' * (len(options.minutes) + 1)}"]
    for images in options.images:
        for peer in options.peers:
            cells = []
            for minutes in options.minutes:
                asked = {"peer": peer, "images": images, "minutes": minutes}
                cells.append(_cell([line for line in lines if asked.items() <= line.items()]))
            rows.append(f"| {images:,} | {peer} | {' | '.join(cells)} | {PEERS[peer].settings or 'its defaults'} |")
    return "\n".join(rows)


def _cell(runs: Sequence[Mapping[str, Any]]) -> str:
    figures = [run["accuracy"] for run in runs if run["accuracy"] is not None]
    if not figures:
        return "no time for it" if runs else ""
    accuracy = statistics.median(figures)
    low, high = wilson(accuracy * TEST_IMAGES, TEST_IMAGES)
    seconds = statistics.median(run["seconds"] for run in runs)
    epochs, shown = runs[0]["epochs"], runs[0]["shown"]
    length = "" if not epochs else f", {epochs:g} epoch{'s' if epochs != 1 else ''}"
    of_all = f" of {shown} of them" if shown < runs[0]["images"] else ""
    return f"{accuracy:.1%} ({low:.1%} to {high:.1%}), {seconds:.0f} s{length}{of_all}".replace("%", " %")
