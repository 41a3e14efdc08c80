"""Cross-validation: a run for each fold of train, and the figures of all of them together."""

from __future__ import annotations

import copy
import re
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.recipe import Recipe, override
from hf_finetune.config.run_files import ENSEMBLE_FILE, METRICS_FILE
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.fingerprint import FINGERPRINT_FILE, check_same_data, fingerprint_of, name_of_row
from hf_finetune.errors import UserError
from hf_finetune.evaluation.metrics import run_metrics
from hf_finetune.evaluation.multi_label import registry_of
from hf_finetune.evaluation.report import to_json
from hf_finetune.jobs.fold_result import TABLE_FILE, KFoldResult
from hf_finetune.jobs.held_out import HELD_OUT_FILE, held_out
from hf_finetune.logs import get_logger, log_lines
from hf_finetune.training.checkpoints.lock import LOCK_FILE, locked
from hf_finetune.training.checkpoints.run_folder import check_same_recipe, holds_result
from hf_finetune.training.given import Given, check_same_objects
from hf_finetune.training.plan import run_name
from hf_finetune.training.run import run
from hf_finetune.training.wiring import load_data

logger = get_logger(__name__)

_MOST_FOLDS = 1_000
_OWN_FILES = {TABLE_FILE, METRICS_FILE, ENSEMBLE_FILE, FINGERPRINT_FILE, LOCK_FILE}


def run_folds(recipe: Recipe, folds: int, command: str, given: Given | None = None) -> KFoldResult:
    """Train on all folds of train but one, for each in turn, and evaluate each model on the fold that it has not seen.

    An interrupted call resumes with the same call: complete folds are read, the one that was interrupted resumes.

    Args:
        recipe: The recipe of every fold.
        folds: How many folds.
        command: The command line that asks for it, for the model cards.
        given: What a Python caller gave as objects. Each fold gets a copy of a model object.

    Returns:
        The figures and the answers for the held-out images.

    Raises:
        UserError: For whatever the caller can fix.
        Interrupted: Where SIGTERM, SIGINT or SIGHUP ended a fold, which is saved.
    """
    given = given or Given()
    _check(recipe, folds)
    _, arguments, args = build_arguments(_recipe_of(recipe, 1, folds, Path()))
    folder = Path(recipe.values.get("output_dir") or Path("runs") / f"{run_name(recipe, arguments, given)}_kfold")
    _check_folder(folder)
    raw = given.dataset.raw if given.dataset else None
    data = load_data(arguments, args, given=raw)
    with locked(folder) if args.process_index == 0 else nullcontext():
        overwrite = args.overwrite_output_dir
        if args.process_index == 0:
            _keep_data(folder, data, folds, overwrite)
        logger.info(f"{folds} folds of {data.source} into {folder}.")
        answers = []
        for number in range(1, folds + 1):
            own = _recipe_of(recipe, number, folds, folder)
            place = Path(own.values["output_dir"])
            if not overwrite and holds_result(place):
                check_same_recipe(place, own.values)
                check_same_objects(place, given)
                logger.info(f"Fold {number} of {folds} is complete.")
            else:
                log_lines(logger, "", f"Fold {number} of {folds}:")
                model = copy.deepcopy(given.model)  # it would go from fold to fold, and know all images in the end
                run(own, command, replace(given, model=model))
            answers.append(held_out(place, own, raw))
        result = KFoldResult.of_folds(
            answers, data.label_names, folder, run_metrics(given.metrics, registry_of(data.task))
        )
        fold_of_row = {
            row: number for number, answer in enumerate(answers, 1) for row in answer["validation"].rows.tolist()
        }
        if args.process_index == 0:
            result.save(partial(name_of_row, data, "train"), fold_of_row)
            members = {
                "members": [f"fold-{number}" for number in range(1, folds + 1)],
                "combined": "mean of probabilities",
                **({} if result.thresholds is None else {"thresholds": result.thresholds}),
            }
            (folder / ENSEMBLE_FILE).write_text(to_json(members), encoding="utf-8")
    log_lines(logger, "", result.table(), "", *_notes(folder, args.load_best_model_at_end))
    return result


def _recipe_of(recipe: Recipe, number: int, folds: int, folder: Path) -> Recipe:
    return override(recipe, {"fold": f"{number}/{folds}", "output_dir": str(folder / f"fold-{number}")}, "kfold")


def _check(recipe: Recipe, folds: int) -> None:
    """Check what cross-validation has no use for."""
    if not 2 <= folds <= _MOST_FOLDS:
        raise UserError(f"folds is {folds}; use a number from 2 to {_MOST_FOLDS:,}, such as 5.")
    for key, why in (
        ("fold", "kfold trains on each fold in turn"),
        ("push_to_hub", "kfold trains several models; push one of them with hf-finetune push"),
    ):
        if recipe.values.get(key):
            raise UserError(f"{key} is {recipe.values[key]}, in {recipe.origins[key]}, and {why}; leave it out.")


def _check_folder(folder: Path) -> None:
    """Check that a folder is new, or holds folds and nothing else."""
    if not folder.is_dir():
        return
    others = [
        path.name
        for path in sorted(folder.iterdir())
        if path.name not in _OWN_FILES and not re.fullmatch(r"fold-\d+|\..*\.unfinished", path.name)
    ]
    if others:
        raise UserError(
            f"output_dir: {folder} holds {others[0]}, which is no fold's, so nothing is written or deleted there; use"
            " another --output_dir."
        )


def _keep_data(folder: Path, data: ImageDataset, folds: int, overwrite: bool) -> None:
    """Compare the data with those that the folds in a folder were begun with, or keep what they are."""
    if overwrite:
        for file in (*(folder / name for name in _OWN_FILES - {LOCK_FILE}), *folder.glob(f"fold-*/{HELD_OUT_FILE}")):
            file.unlink(missing_ok=True)
    check_same_data(folder, data, data.bad_images)
    if not (folder / FINGERPRINT_FILE).is_file():
        fingerprint_of(data).save(folder)


def _notes(folder: Path, chose_checkpoint: bool) -> list[str]:
    notes = []
    if chose_checkpoint:
        notes.append(
            "Each fold also chose the checkpoint of its model, which flatters the figures of the folds a little; for"
            " figures without that use --load_best_model_at_end false."
        )
    return [
        *notes,
        f"The answers for all images are in {folder / TABLE_FILE}, the figures in {folder / METRICS_FILE}.",
        f"hf-finetune predict {folder} IMAGES gives the mean of the models' probabilities.",
    ]
