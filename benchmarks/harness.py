"""What all benchmarks share: settings, alternating blocks, ratios, and empty datasets caches."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch

WARM_UP = 3  # steps at the start of a block that are not timed: thread pools, allocator, cuDNN's choice of algorithms


@dataclass(frozen=True)
class Session:
    """Settings of a whole run of benchmarks.

    pairs: how often the sides alternate.
    quick: smallest sizes, on generated images, to check that everything runs; the results are meaningless.
    data: folder with real images, None if there is none.
    cpu: do not use a GPU.
    whole: use all of MNIST where the default is a part of it.
    folder: temporary folder for images, caches and outputs.
    plots: folder for plots, None if none are drawn.
    """

    folder: Path
    pairs: int = 3
    quick: bool = False
    data: Path | None = None
    cpu: bool = False
    whole: bool = False
    plots: Path | None = None

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Ratio:
    """The median of the pairs' ratios (or of their differences, in `unit`), its spread, and what is required of it."""

    pairs: Sequence[float]
    required: float
    at_least: bool = True
    unit: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.pairs)

    @property
    def met(self) -> bool:
        return self.median >= self.required if self.at_least else self.median <= self.required

    def __str__(self) -> str:
        return f"{self.median:.3g}{self.unit} ({min(self.pairs):.3g} to {max(self.pairs):.3g})"

    def requirement(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.required:g}{self.unit}"


@dataclass(frozen=True)
class Row:
    """One line of a table. `ours`, `stock` and `limit` are figures with their units; `limit` may be absent."""

    question: str
    ours: str
    stock: str
    to_stock: Ratio
    limit: str = "-"
    to_limit: Ratio | None = None

    @property
    def met(self) -> bool:
        return self.to_stock.met and (self.to_limit is None or self.to_limit.met)


@dataclass
class Answer:
    """The result of a benchmark: rows of the table, and notes that are needed to read them correctly."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def alternate(sides: Mapping[str, Callable[[], float]], pairs: int) -> dict[str, list[float]]:
    """Call each side once per round and return the measurements by side; every other round is in the opposite order.

    So a change in the machine's speed affects all sides equally.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    gc.freeze()  # a collection in mid-block then looks at that block's objects only, not at all libraries'
    for number in range(pairs):
        for name in sides if number % 2 == 0 else reversed([*sides]):
            samples[name].append(sides[name]())
    gc.unfreeze()
    return samples


def times_faster(samples: Mapping[str, Sequence[float]], other: str, required: float) -> Ratio:
    """Return how many times as fast as `other` ours is, from seconds by side."""
    return Ratio([theirs / ours for theirs, ours in zip(samples[other], samples["ours"], strict=True)], required)


def compare_seconds(
    question: str,
    samples: Mapping[str, Sequence[float]],
    show: Callable[[float], str],
    stock: float,
    limit: float | None = None,
) -> Row:
    """Return the row of sides "ours", "stock" and, where `limit` is required, "limit", from their seconds."""
    shown = {name: show(statistics.median(seconds)) for name, seconds in samples.items()}
    return Row(
        question,
        shown["ours"],
        shown["stock"],
        times_faster(samples, "stock", stock),
        shown.get("limit", "-"),
        None if limit is None else times_faster(samples, "limit", limit),
    )


def cores() -> list[int]:
    """Return the processor cores that this process may use; empty if the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def seconds(value: float) -> str:
    return f"{value:.2f} s" if math.isfinite(value) else "not reached"


def per_second(images: int) -> Callable[[float], str]:
    """Return a formatter of the seconds for `images` images as images per second."""
    return lambda value: f"{images / value:,.{0 if images > 100 * value else 1}f} images/s"


def stopwatch(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes, including what it started on a GPU."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide log lines and progress bars of both sides."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def datasets_cache(session: Session) -> Iterator[Path]:
    """Use an empty datasets cache, in this process and those that it starts, so that a first pass finds nothing."""
    before, in_environment = datasets.config.HF_DATASETS_CACHE, os.environ.get("HF_DATASETS_CACHE")
    with tempfile.TemporaryDirectory(dir=session.folder, prefix="cache-", ignore_cleanup_errors=True) as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder)
        os.environ["HF_DATASETS_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            datasets.config.HF_DATASETS_CACHE = before
            os.environ.pop("HF_DATASETS_CACHE")
            if in_environment is not None:
                os.environ["HF_DATASETS_CACHE"] = in_environment
