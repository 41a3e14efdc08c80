"""What changes over the steps of a run, foretold, as text and as a mapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_IN_JSON = 2_000  # points, at most
_SPREAD = 12  # rows of the table, beside those where
_TURNS, _TURN = 20, 0.05  # the rate's change from step to step changes by this part of the highest rate
_GROUPS_SHOWN = 5


@dataclass(frozen=True)
class GroupSchedule:
    """Parameters that have one learning rate throughout a run.

    Attributes:
        name: The part of the network, or "all".
        tensors: How many tensors it has.
        parameters: How many numbers these have.
        weight_decays: Their weight decays, which may differ; ascending.
        learning_rates: At each point, float64 (points,).
    """

    name: str
    tensors: int
    parameters: int
    weight_decays: tuple[float, ...]
    learning_rates: Floats


@dataclass(frozen=True)
class ScheduleResult:
    """What changes over the steps of a run, or over its time where it ends by the clock.

    Attributes:
        by_time: Whether points are shares of the time for training and not optimizer steps.
        points: Steps, counted from 1; or shares from 0 to 1; float64 (points,).
        groups: Those with different learning rates; the log of a run shows that of the first.
        momentum: At each point, float64 (points,); None for an optimizer without. Adam's is beta1.
        ema_decay: What a step keeps of the moving average of the weights, float64 (points,); None without an average.
        image_sizes: At each point the shorter side of training images in pixels, float64 (points,), NaN where
            train_transforms alone say it; None without an image_size_schedule.
        head_alone_epochs: How many first epochs train the head alone.
        steps_per_epoch: Optimizer steps of an epoch.
        epochs: Of the run; None where the clock ends it.
        images: For training.
        batch: Images of a step.
        schedule: The name of the schedule.
        notes: What is to be known beside.
    """

    by_time: bool
    points: Floats
    groups: tuple[GroupSchedule, ...]
    momentum: Floats | None
    ema_decay: Floats | None
    image_sizes: Floats | None
    head_alone_epochs: int
    steps_per_epoch: int
    epochs: float | None
    images: int
    batch: int
    schedule: str
    notes: tuple[str, ...]

    @property
    def epochs_at(self) -> Floats | None:
        """How many epochs are over at each point, float64 (points,); None where the clock ends the run."""
        return None if self.by_time else (self.points - 1) / self.steps_per_epoch

    def heading(self) -> tuple[str, str]:
        """Return the schedule with its length in words, and what it follows from."""
        data = f"{self.images:,} images in batches of {self.batch:,}, {self.steps_per_epoch:,} steps an epoch"
        if self.by_time:
            return f"{self.schedule} over the time for training", data
        return f"{self.schedule} over {len(self.points):,} steps, {self.epochs:g} epochs", data

    def panels(self) -> list[tuple[str, list[tuple[str, Floats]]]]:
        """Return what is drawn below each other: the name of each panel, and its lines with their names."""
        rates = [(f"{group.name}, {group.learning_rates.max():.3g}", group.learning_rates) for group in self.groups]
        return [("learning rate", rates), *((name, [(name, values)]) for name, values in self._others())]

    def _others(self) -> list[tuple[str, Floats]]:
        """Return what changes beside the rates, with its name."""
        named = (("momentum", self.momentum), ("EMA decay", self.ema_decay), ("pixels", self.image_sizes))
        return [(name, values) for name, values in named if values is not None]

    def text(self) -> str:
        """Return what the command prints."""
        lines = [": ".join(self.heading()), *self.notes, ""]
        for name, group in zip(self._rate_names(), self.groups, strict=True):
            decays = ", ".join(f"{decay:g}" for decay in group.weight_decays)
            highest = group.learning_rates.max()
            lines.append(
                f"{name}, {group.name}: {highest:.4g} at most, weight decay {decays}, {group.tensors:,} tensors of"
                f" {group.parameters:,} parameters"
            )
        lines += ["", *self._table()]
        return "\n".join(lines)

    def _rate_names(self) -> list[str]:
        return ["rate"] if len(self.groups) == 1 else [f"rate {number}" for number in range(1, len(self.groups) + 1)]

    def _table(self) -> list[str]:
        shown = self.groups[:_GROUPS_SHOWN]
        columns: dict[str, list[str]] = {}
        rows = self._rows()
        columns["share" if self.by_time else "step"] = [f"{point:g}" for point in self.points[rows]]
        if self.epochs_at is not None:
            columns["epoch"] = [f"{epoch:.2f}" for epoch in self.epochs_at[rows]]
        for name, group in zip(self._rate_names(), shown, strict=False):
            columns[name] = [f"{rate:.4g}" for rate in group.learning_rates[rows]]
        for name, values in self._others():
            columns[name] = ["-" if np.isnan(value) else f"{value:.4g}" for value in values[rows]]
        widths = [max(len(name), *map(len, cells)) for name, cells in columns.items()]
        table = [list(columns), *map(list, zip(*columns.values(), strict=True))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        if len(shown) < len(self.groups):
            lines.append(f"{len(self.groups) - len(shown)} more rates are in the plot, and in --json.")
        return lines

    def _rows(self) -> npt.NDArray[np.int64]:
        """Return the points of the table: evenly spread ones, the highest rate, and those where the rate turns."""
        rates = self.groups[0].learning_rates
        count = len(rates)
        turns = np.flatnonzero(np.abs(np.diff(rates, 2)) > _TURN * rates.max())[:_TURNS] + 1
        spread = np.linspace(0, count - 1, min(count, _SPREAD)).round().astype(np.int64)
        return np.unique(np.concatenate([spread, turns, [int(rates.argmax())]]))

    def as_mapping(self) -> dict[str, Any]:
        """Return the result as JSON has it; of more than 2,000 points, evenly spread ones."""
        count = len(self.points)
        rows = np.unique(np.linspace(0, count - 1, min(count, _IN_JSON)).round().astype(np.int64))
        epochs = self.epochs_at

        def some(values: Floats | None) -> list[float] | None:
            return None if values is None else values[rows].tolist()

        return {
            "schedule": self.schedule,
            "images": self.images,
            "global_batch_size": self.batch,
            "steps_per_epoch": self.steps_per_epoch,
            "steps": None if self.by_time else count,
            "epochs": self.epochs,
            "head_alone_epochs": self.head_alone_epochs,
            "notes": list(self.notes),
            "points_are": "shares of the time for training" if self.by_time else "optimizer steps, from 1",
            "points": some(self.points),
            "epochs_over": some(epochs),
            "groups": [
                {
                    "name": group.name,
                    "tensors": group.tensors,
                    "parameters": group.parameters,
                    "weight_decays": list(group.weight_decays),
                    "learning_rates": some(group.learning_rates),
                }
                for group in self.groups
            ],
            "momentum": some(self.momentum),
            "ema_decay": some(self.ema_decay),
            "image_sizes": some(self.image_sizes),
        }
