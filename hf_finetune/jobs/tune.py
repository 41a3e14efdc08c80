"""A search for settings: many runs, each a trial with values from a space, and the best of them as a recipe."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.recipe import Recipe, flag_text, override, to_yaml
from hf_finetune.config.run_files import METRICS_FILE, RECIPE_FILE
from hf_finetune.config.search_space import Space, read_space
from hf_finetune.data.sources.open import find_source
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.evaluation.metrics import ClassificationMetrics, run_metrics
from hf_finetune.evaluation.multi_label import registry_of
from hf_finetune.evaluation.report import aligned
from hf_finetune.evaluation.search_plots import SEARCH_FILE, plot_search
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.tasks import ONE_LABEL, SEVERAL_LABELS
from hf_finetune.training.checkpoints.run_folder import check_same_recipe, holds_result
from hf_finetune.training.checkpoints.store import remove_all
from hf_finetune.training.given import Given, check_same_objects
from hf_finetune.training.plan import run_name
from hf_finetune.training.run import run

if TYPE_CHECKING:
    from optuna.trial import Trial

    from hf_finetune.jobs.study import Study, Task

logger = get_logger(__name__)

BEST_FILE = "best.yaml"
_SHOWN = 5  # trials in the table
_FAILURES = 3  # of the first trials, after which it is no bad luck


@dataclass(frozen=True, repr=False)
class TuneResult:
    """What a search has found.

    Attributes:
        metric: The figure of validation that is compared.
        best_trial: The number of the best trial.
        best_value: Its figure.
        best_values: The keys of the space with its values.
        importances: By key, the part of the figures' variance that it explains; the largest first.
        states: How many trials ended how: "complete", "pruned" or "fail".
        recipe: The file of the best recipe.
        output_dir: The folder of the study.
    """

    metric: str
    best_trial: int
    best_value: float
    best_values: dict[str, Any]
    importances: dict[str, float]
    states: dict[str, int]
    recipe: Path
    output_dir: Path

    def __repr__(self) -> str:
        """Return one line: the best trial, its figure and its recipe."""
        return f"TuneResult: trial {self.best_trial}, {self.metric} {self.best_value:.4f}, {self.recipe}"


class _Reports(TrainerCallback):
    """Tells Optuna the figure after each epoch, and ends a trial that is worse than the median of the others.

    It raises `optuna.TrialPruned`.
    """

    def __init__(self, trial: Trial, metric: str) -> None:
        self._trial, self._metric, self._epoch = trial, metric, 0

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from optuna import TrialPruned

        figure, epoch = kwargs["metrics"].get(f"eval_{self._metric}"), round(state.epoch or 0)
        if figure is None or epoch <= self._epoch or not math.isclose(epoch, state.epoch, abs_tol=1e-6):
            return
        self._epoch = epoch
        self._trial.report(figure, epoch)
        if self._trial.should_prune():
            raise TrialPruned(f"after epoch {epoch}, with {self._metric} {figure:.4f}")


def run_study(
    space: str | Path | Mapping[str, Any], recipe: Recipe, trials: int, command: str, given: Given | None = None
) -> TuneResult:
    """Work on a study until it has its trials; the same call in other processes works on the same one.

    Args:
        space: The file of the space, or a mapping that says the same.
        recipe: What all trials have in common.
        trials: How many trials there are in the end, those of other processes and of earlier calls included.
        command: The command line that asks for it, for the model cards.
        given: What a Python caller gave as objects. Each trial gets a copy of a model object.

    Raises:
        UserError: For whatever the caller can fix.
        Interrupted: Where SIGTERM, SIGINT or SIGHUP ended a trial, which is saved: the same call resumes it.
    """
    given = given or Given()
    if find_spec("optuna") is None:
        raise UserError('A search needs the package optuna; install it with `pip install "hf-finetune[tune]"`.')
    parameters = read_space(space)
    metric, greater_is_better, seed, folder = _checked(recipe, parameters, trials, given)
    from hf_finetune.jobs.study import Study

    study = Study(folder, parameters, seed, greater_is_better)
    with study.alone():
        if (folder / RECIPE_FILE).is_file():
            check_same_recipe(folder, recipe.values)
            check_same_objects(folder, given)
        else:
            text = to_yaml(recipe, explain=True) + given.as_comments()
            _write(folder / RECIPE_FILE, f"# What all trials in this folder have in common\n{text}")
    logger.info(f"A study of {trials} trials into {folder}; another process with the same command works on it too.")
    while True:
        with study.next(trials) as task:
            if task is None:
                break
            _try(study, task, recipe, metric, command, given)
        with study.alone():
            _write_best(study, metric)
    return _finish(study, metric)


def _checked(recipe: Recipe, space: Space, trials: int, given: Given) -> tuple[str, bool, int, Path]:
    """Check what does not depend on a trial; return the metric, whether more is better, the seed and the folder."""
    if trials < 1:
        raise UserError(f"trials is {trials}; use a number of at least 1.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "A trial is trained by one process; start hf-finetune tune several times instead of a launcher."
        )
    for key in space:
        origin = recipe.origins.get(key, "")
        if key in recipe.values and not origin.endswith((".yaml", ".yml")):
            raise UserError(f"{key} is {recipe.values[key]!r}, in {origin}, and is searched; leave one of them out.")
    for key, why in (
        ("push_to_hub", "a search trains many models"),
        ("overwrite_output_dir", "a search adds trials to the study in its folder; use another --output_dir"),
    ):
        if recipe.values.get(key):
            raise UserError(f"{key} is {recipe.values[key]}, in {recipe.origins[key]}, and {why}; leave it out.")
    _, data, args = build_arguments(recipe)
    if given.dataset is None:
        find_source(data)
    # Which task the images have is not known yet.
    metrics = run_metrics(given.metrics, {**registry_of(SEVERAL_LABELS), **registry_of(ONE_LABEL)})
    metric = args.chosen_by
    if metric not in metrics:
        raise UserError(
            f'metric_for_best_model is "{metric}", which is not measured.{did_you_mean(metric, metrics)} Use one of'
            f" {', '.join(metrics)}."
        )
    better = ClassificationMetrics([""] * max(kind.min_classes for kind in metrics.values()), metrics)
    folder = Path(recipe.values.get("output_dir") or Path("runs") / f"{run_name(recipe, data, given)}_tune")
    return metric, better.greater_is_better(metric, args.greater_is_better), args.seed, folder


def _try(study: Study, task: Task, recipe: Recipe, metric: str, command: str, given: Given) -> None:
    """Train one trial and tell the study its end."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    number, folder = task.trial.number, task.folder
    shown = ", ".join(f"{key} {flag_text(value)}" for key, value in task.values.items())
    log_lines(logger, "", f"Trial {number}: {shown}")
    own = override(recipe, {**task.values, "output_dir": str(folder)}, f"trial {number}")
    callbacks = [*given.callbacks, _Reports(task.trial, metric)]
    objects = replace(given, model=copy.deepcopy(given.model), callbacks=callbacks)
    try:
        if not holds_result(folder):  # its process may have ended between the two
            run(own, command, objects)
        figure = _figure(folder, metric)
    except TrialPruned as pruned:
        study.optuna.tell(task.trial, state=TrialState.PRUNED)
        logger.info(f"Trial {number} is pruned {pruned}: less than the median of the others.")
        shutil.rmtree(folder, ignore_errors=True)
        return
    except (UserError, torch.OutOfMemoryError) as error:
        study.optuna.tell(task.trial, state=TrialState.FAIL)
        shutil.rmtree(folder, ignore_errors=True)
        ended = [trial.state for trial in study.trials() if trial.state.is_finished()]
        if len(ended) >= _FAILURES and set(ended) == {TrialState.FAIL}:
            raise UserError(f"The first {len(ended)} trials failed, the last with: {error}") from error
        logger.warning(f"Trial {number} failed: {error}")
        return
    study.optuna.tell(task.trial, figure)
    remove_all(folder)
    best = study.best()
    assert best is not None
    logger.info(f"Trial {number}: {metric} {figure:.4f}; the best is trial {best.number}, {best.value:.4f}.")


def _figure(folder: Path, metric: str) -> float:
    figures = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))["metrics"]
    figure = figures.get(f"eval_{metric}")
    if figure is None:
        known = [name.removeprefix("eval_") for name in figures if name.startswith("eval_")]
        advice = "--metric_for_best_model with another" if known else "--validation_fraction 0.1"
        raise UserError(f"A search compares {metric} of validation, which the run does not have; use {advice}.")
    return float(figure)


def _write_best(study: Study, metric: str) -> None:
    """Write the best trial as a recipe over what all trials have in common, whose file says the trial's number."""
    best = study.best()
    if best is None:
        return
    name = f"trial-{best.number}.yaml"
    values = study.values_of(best)
    text = to_yaml(Recipe(name, values, dict.fromkeys(values, name)))
    _write(study.folder / name, f"# Trial {best.number}: {metric} {best.value:.4f} on validation\n{text}")
    lines = f"# The best so far, trial {best.number}: {metric} {best.value:.4f} on validation"
    _write(study.folder / BEST_FILE, f"{lines}\n_base_: [{RECIPE_FILE}, {name}]\noutput_dir: null\n")
    for other in study.folder.glob("trial-*.yaml"):
        if other.name != name:
            other.unlink()


def _write(file: Path, text: str) -> None:
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
    unfinished.replace(file)


def _finish(study: Study, metric: str) -> TuneResult:
    """Draw the plot, show the table and return the result."""
    folder, best = study.folder, study.best()
    if best is None:
        raise UserError(f"No trial in {folder} is complete; look at what the log says of them.")
    trials = study.trials()
    with study.alone():
        importances = study.importances()
        figures = [
            (trial.number, trial.value)
            for trial in trials
            if trial.value is not None and trial.state.name == "COMPLETE"
        ]
        plot_search(figures, importances, metric, best.number, folder / SEARCH_FILE)
    states: dict[str, int] = {}
    for trial in trials:
        states[trial.state.name.lower()] = states.get(trial.state.name.lower(), 0) + 1
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    log_lines(logger, "", *_table(study, metric), "", f"{len(trials)} trials: {counts}.")
    if importances:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in importances.items())
        logger.info(f"What explains the differences (fANOVA): {shares}; the plot is {folder / SEARCH_FILE}.")
    logger.info(
        f"The best recipe is {folder / BEST_FILE}. Its figure is of the images that chose it, so it is too good; train"
        f" with it and look at test: hf-finetune train --recipe {folder / BEST_FILE}"
    )
    return TuneResult(
        metric,
        best.number,
        float(best.value or 0.0),
        study.values_of(best),
        importances,
        states,
        folder / BEST_FILE,
        folder,
    )


def _table(study: Study, metric: str) -> list[str]:
    """Return the best trials as the lines of a table."""
    complete = [trial for trial in study.trials() if trial.state.name == "COMPLETE"]
    down = study.optuna.direction.name == "MAXIMIZE"
    best = sorted(
        complete, key=lambda trial: (trial.value or 0.0, -trial.number if down else trial.number), reverse=down
    )
    rows = [["trial", metric, *study.space]]
    for trial in best[:_SHOWN]:
        values = study.values_of(trial).values()
        cells = [f"{value:.4g}" if isinstance(value, float) else flag_text(value) for value in values]
        rows.append([str(trial.number), f"{trial.value:.4f}", *cells])
    return aligned(rows)
