"""The report of a run: `report.html`, made of what the folder of the run holds and, for thumbnails, of its images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from PIL.Image import Image

from hf_finetune.config.recipe import Recipe
from hf_finetune.config.run_files import HISTORY_FILE, METRICS_FILE, PREDICTIONS_FILE, RECIPE_FILE
from hf_finetune.errors import UserError, first_line
from hf_finetune.evaluation.metrics import METRICS, TRAINERS_FIGURES, Metric, as_number
from hf_finetune.evaluation.multi_label import MULTI_LABEL_METRICS
from hf_finetune.reports.answers import Answers, read_answers
from hf_finetune.reports.history import read_history
from hf_finetune.tasks import task_named

ReadImages = Callable[[Sequence[int]], Sequence[Image | None]]
"""Returns small copies of the images at some places of the split that was evaluated; None for what cannot be read."""

PREFIXES = {"test": "test_", "validation": "eval_"}  # of the figures of a split in metrics.json
_INTERVAL = "_interval"


@dataclass(frozen=True)
class RunFiles:
    """What the folder of a finished run holds for its report.

    Attributes:
        folder: The folder.
        record: `metrics.json`.
        history: `history.csv`.
        recipe: The recipe, with the origin of each value.
        config: `config.json` of the model.
        answers: `predictions.csv`; None for a run without a split to evaluate on.
    """

    folder: Path
    record: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    recipe: Recipe
    config: Mapping[str, Any]
    answers: Answers | None

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """Read the files.

        Raises:
            UserError: The folder is not that of a finished run, or a file cannot be read.
        """
        if not (folder / METRICS_FILE).is_file():
            raise UserError(f"{folder} has no {METRICS_FILE}; use the folder of a finished run.")
        record = _mapping(folder / METRICS_FILE, json.loads)
        config = _mapping(folder / "config.json", json.loads)
        values = _mapping(folder / RECIPE_FILE, yaml.safe_load)
        origins = {key: record.get("settings_from", {}).get(key, RECIPE_FILE) for key in values}
        names, answers = [row["name"] for row in record.get("per_class", ())], None
        if record.get("reported_split") is not None:
            if not (folder / PREDICTIONS_FILE).is_file():
                raise UserError(
                    f"{folder} has no {PREDICTIONS_FILE}, which runs of earlier versions did not write; train again for"
                    " a report, or use hf-finetune evaluate for figures."
                )
            answers = read_answers(folder / PREDICTIONS_FILE, names, task_named(config.get("problem_type")).several)
        history = read_history(folder / HISTORY_FILE)
        return cls(folder, record, history, Recipe(RECIPE_FILE, values, origins), config, answers)

    @property
    def role(self) -> str | None:
        """The split whose figures count; None where nothing was evaluated."""
        role: str | None = self.record.get("reported_split")
        return role

    @property
    def roles(self) -> list[str]:
        """The splits that were evaluated, that whose figures count first."""
        return [role for role in PREFIXES if f"{PREFIXES[role]}loss" in self.record["metrics"]]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics of the run by name; one of the user's own is a number."""
        known = {**METRICS, **MULTI_LABEL_METRICS}
        found = {name: known[name] for name in known if any(name in self.figures(role) for role in self.roles)}
        for role in self.roles:
            for name in self.figures(role):
                if name not in known:
                    title = name.replace("_", " ")
                    found[name] = Metric(lambda _: 0.0, title, title, name, as_number)
        return found

    def figures(self, role: str) -> dict[str, float]:
        """Return the figures of a split by name; NaN for those that are not finite."""
        return {
            name: float("nan") if value is None else value
            for name, value in self._of(role).items()
            if not name.endswith(_INTERVAL) and name not in TRAINERS_FIGURES
        }

    def intervals(self, role: str) -> dict[str, tuple[float, float]]:
        """Return the 95 % intervals of a split's figures by name."""
        return {
            name.removesuffix(_INTERVAL): tuple(value)
            for name, value in self._of(role).items()
            if name.endswith(_INTERVAL)
        }

    def images(self, role: str) -> int:
        """Return how many images of a split were counted."""
        return int(self._of(role)["samples"])

    def _of(self, role: str) -> dict[str, Any]:
        prefix = PREFIXES[role]
        return {
            name.removeprefix(prefix): value
            for name, value in self.record["metrics"].items()
            if name.startswith(prefix) and re.match("[A-Za-z_]", name.removeprefix(prefix))
        }


def _mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        read = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); restore the file.") from error
    if not isinstance(read, dict):
        raise UserError(f"{path} does not hold what a run writes; restore the file.")
    return read
