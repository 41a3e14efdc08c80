"""Two models on the same images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_finetune.config.arguments import KEY_TYPES
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import load_recipe
from hf_finetune.config.run_files import METRICS_FILE, RECIPE_FILE
from hf_finetune.data.sources.objects import GivenDataset
from hf_finetune.errors import UserError
from hf_finetune.evaluation.report import to_json
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.jobs.comparison import Comparison
from hf_finetune.jobs.evaluate import evaluate_model
from hf_finetune.jobs.evaluation_result import check_output
from hf_finetune.jobs.paired_results import PairedResults
from hf_finetune.logs import get_logger, log_lines, write_result
from hf_finetune.models.load import open_source
from hf_finetune.tasks import task_of

logger = get_logger(__name__)

# The keys of a recipe that say which images a run is evaluated on. Those of the first are paths, where they exist.
_PATHS = ("dataset", "dataset_path")
_DATA_KEYS = (
    *_PATHS,
    "dataset_config",
    "dataset_revision",
    "image_column",
    "label_column",
    "label_separator",
    "label_from_name",
    "label_strip",
    "train_split",
    "validation_split",
    "test_split",
    "validation_fraction",
    "group_column",
    "weight_column",
    "fold",
    "max_eval_samples",
    "streaming",
)


def compare_models(
    first: str | Path | PreTrainedModel,
    second: str | Path | PreTrainedModel,
    *,
    split: str | None = None,
    output: str | Path | None = None,
    show: str | None = None,
    labels_by_index: bool = False,
    given: GivenDataset | None = None,
    **settings: Any,
) -> Comparison:
    """Compare two models on the same images. Classes are matched by name, in whatever order the models have them.

    Args:
        first: A folder, a Hub id, an embedded name, or a model object.
        second: Likewise.
        split: As in `evaluate_model`.
        output: A .json or .csv file for the images on which the models differ (`Comparison.save`).
        show: Write the result to standard output, as a "table" or as "json"; None writes nothing.
        labels_by_index: As in `evaluate_model`, for both.
        given: A dataset that is open already.
        settings: Keys of a recipe that say which images. Without a dataset, the images that both runs report their
            figures on, and the `slice_columns` of both.

    Returns:
        The comparison, of the images that both models could read.

    Raises:
        UserError: For models and datasets that cannot be had, for runs that were not evaluated on the same images, and
            for two models of which only one gives an image several labels.
    """
    if output is not None:
        output = Path(output).expanduser()
        check_output(output)
    _check_same_task((first, second), settings)
    notes: tuple[str, ...] = ()
    if given is None and settings.get("dataset") is None:
        split, of_runs, notes = _images_of_runs(first, second, split)
        settings = {**of_runs, **settings}

    results = PairedResults.of(
        *(
            evaluate_model(model, split=split, labels_by_index=labels_by_index, given=given, **settings)
            for model in (first, second)
        )
    )
    if any(results.only):
        notes += (
            f"Note: {sum(results.only):,} images are left out: the first model could not read"
            f" {results.only[1]:,} of them, the second {results.only[0]:,}.",
        )
    comparison = Comparison((_called(first), _called(second)), results.first.split, results, notes)
    if output is not None:
        comparison.save(output)
        log_lines(logger, f"Written: {output}.")
    if show is not None:  # last: its reader may have ended
        text = to_json(comparison.as_mapping()).rstrip("\n") if show == "json" else f"\n{comparison.report()}"
        write_result(text)
    return comparison


def _check_same_task(models: Sequence[str | Path | PreTrainedModel], settings: Mapping[str, Any]) -> None:
    """Check that both models give an image one class, or both any number of them; no weights are read."""
    keys = ("model_revision", "trust_remote_code")
    stated = {key: settings[key] for key in keys if settings.get(key) is not None}
    several = []
    for model in models:
        source = model if isinstance(model, PreTrainedModel) else ModelArguments(str(model), **stated)
        several.append(task_of(open_source(source).load_config()).several)
    if several[0] != several[1]:
        names = [_called(model) if isinstance(model, PreTrainedModel) else str(model) for model in models]
        if several[1]:
            names.reverse()
        raise UserError(
            f"{names[0]} gives an image any number of classes, and {names[1]} gives it one; compare two models of the"
            " same kind."
        )


def _images_of_runs(
    first: str | Path | PreTrainedModel, second: str | Path | PreTrainedModel, split: str | None
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return the split that both runs report their figures on, the keys that name its images, and notes."""
    recipes, figures = zip(*(_read_run(model) for model in (first, second)), strict=True)
    for key in _DATA_KEYS:
        values = [recipe.get(key) for recipe in recipes]
        if not _same(key, *values):
            shown = [json.dumps(value, ensure_ascii=False) for value in values]
            raise UserError(
                f"The runs have other images ({key}: {shown[0]} and {shown[1]}); use --dataset to say which to compare"
                " on."
            )
    role = split or figures[0]["reported_split"]
    splits = [run["splits"].get(role) for run in figures]
    if role is None or splits[0] is None or splits[0] != splits[1]:
        what = f"{role}: {splits[0]} and {splits[1]}" if role else "neither was evaluated"
        raise UserError(f"The runs have no split in common ({what}); use --dataset to say which images to compare on.")
    notes: tuple[str, ...] = ()
    if role == "validation" and any(run["validation_chose_checkpoint"] for run in figures):
        notes = ("Note: validation also chose the checkpoint, so both accuracies are higher than on new images.",)
    used = {key: recipes[0][key] for key in (*_DATA_KEYS, "seed") if key in recipes[0]}
    columns = [column for recipe in recipes for column in recipe.get("slice_columns") or ()]
    if columns:
        used["slice_columns"] = list(dict.fromkeys(columns))
    return role, {"validation_fraction": 0.1, **used}, notes


def _read_run(model: str | Path | PreTrainedModel) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the recipe of a run and its figures."""
    if isinstance(model, PreTrainedModel):
        raise UserError("A model object does not say which images to compare on; use --dataset.")
    folder = Path(model).expanduser()
    try:
        figures = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        figures = None
    if not (folder / RECIPE_FILE).is_file() or not isinstance(figures, dict) or "splits" not in figures:
        raise UserError(f"{model} is no folder of a finished run, so it names no images to compare on; use --dataset.")
    recipe = load_recipe(folder / RECIPE_FILE, KEY_TYPES).values
    if recipe.get("dataset") is None:
        raise UserError(f"The recipe of {model} names no dataset; use --dataset.")
    return recipe, figures


def _same(key: str, first: Any, second: Any) -> bool:
    if key in _PATHS and first is not None and second is not None:
        paths = [os.path.expanduser(str(value)) for value in (first, second)]
        if all(map(os.path.exists, paths)):
            return os.path.samefile(*paths)
    return bool(first == second)


def _called(model: str | Path | PreTrainedModel) -> str:
    name = (model.name_or_path or type(model).__name__) if isinstance(model, PreTrainedModel) else str(model)
    return str(without_private_text(name, Path.cwd()))
