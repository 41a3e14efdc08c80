"""The output folder of a run: new, to be resumed, or with results that must not be overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_finetune.config.run_files import ADAPTER_FILES, METRICS_FILE, RECIPE_FILE
from hf_finetune.config.training_keys import AUTO
from hf_finetune.data.fingerprint import FINGERPRINT_FILE
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger
from hf_finetune.shown_text import without_secrets
from hf_finetune.training.checkpoints.lock import LOCK_FILE
from hf_finetune.training.checkpoints.store import flush, list_checkpoints, remove_all, set_aside
from hf_finetune.training.checkpoints.usable import why_unusable

logger = get_logger(__name__)

_UNFINISHED_RECIPE = ".recipe.yaml.unfinished"
# The first line of a run's recipe: a recipe.yaml without it was not written by this package, nor was its folder.
_RECIPE_HEADER = "# The recipe of the run in this folder, resolved by hf-finetune\n"
# What would be taken for the result of the new run, if that were interrupted.
_RESULT_FILES = (
    METRICS_FILE, "model.safetensors", "config.json", "preprocessor_config.json", "README.md", "model.onnx",
    "model_int8.onnx", "model.pt2", *ADAPTER_FILES,
)  # fmt: skip
# Settings that may differ when an interrupted run resumes: where and how it runs, not what it computes.
_MAY_CHANGE = {
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataset_path",
    "ddp_timeout",
    "disable_tqdm",
    "gradient_accumulation_steps",
    "hub_model_id",
    "hub_private_repo",
    "license",
    "logging_steps",
    "not_for",
    "on_bad_image",
    "on_nan",
    "output_dir",
    "overwrite_output_dir",
    "per_device_eval_batch_size",
    "per_device_train_batch_size",
    "push_to_hub",
    "report_to",
    "save_on_signal",
    "save_total_limit",
    "use_cpu",
}


FOUND_IN_IMAGES = ("value_range", "image_channels", "image_mean", "image_std")  # keys that images decide

_CHOICE = "use another --output_dir, or --overwrite_output_dir to start anew"


def find_resumable(folder: Path, values: Mapping[str, Any], overwrite: bool, data_anywhere: bool = True) -> Path | None:
    """Return the checkpoint from which a run resumes, or None for a new run.

    It is the newest whole checkpoint. Corrupt ones that are newer are named in the log and renamed; nothing else is
    written.

    Args:
        folder: The folder of the run.
        values: The resolved keys of its recipe.
        overwrite: Whether an earlier run in the folder is to be removed (`overwrite_output_dir`).
        data_anywhere: Whether `dataset` may name another path although the earlier one still exists. The run resumes if
            the data are the same (`data.fingerprint.check_same_data`).

    Raises:
        UserError: The folder holds a finished run, another run, or anything else that a new run would overwrite.
    """
    if os.fsencode(folder.absolute()).decode(errors="ignore") != str(folder.absolute()):
        raise UserError(f"output_dir: {folder} is not in UTF-8, and safetensors writes to no such path; rename it.")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"output_dir: {existing} is a file; use a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"output_dir: there is no permission to write in {existing}; use another --output_dir.")
    if not folder.is_dir() or not any(path.name not in (_UNFINISHED_RECIPE, LOCK_FILE) for path in folder.iterdir()):
        return None
    if not _holds_run(folder):
        raise UserError(
            f"output_dir: {folder} is not empty and holds no run of this package, so nothing is written or deleted"
            " there; use another --output_dir."
        )
    if overwrite:
        return None
    if holds_result(folder):
        raise UserError(f"output_dir: {folder} holds the results of a finished run; {_CHOICE}.")
    if not list_checkpoints(folder):
        return None  # it ended before there was anything to lose
    for key, before, now in _changed(folder, values):
        if key == "dataset" and _may_be_moved(folder, before, now, data_anywhere):
            logger.info(f"The run began with dataset {before}; {now} is compared with it.")
            continue
        raise UserError(f"output_dir: {folder} holds an unfinished run with {key} {before!r}, not {now!r}; {_CHOICE}.")
    for checkpoint in list_checkpoints(folder):
        fault = why_unusable(checkpoint)
        if fault is None:
            return checkpoint
        logger.warning(f"Note: {checkpoint.name} is corrupt: {fault}; it is set aside as {set_aside(checkpoint).name}.")
    return None


def check_same_recipe(folder: Path, values: Mapping[str, Any]) -> None:
    """Check that a run in a folder was that of a recipe, but for keys that do not change what it computes.

    Args:
        folder: The folder of the run.
        values: The resolved keys of the recipe.

    Raises:
        UserError: It was that of another.
    """
    for key, before, now in _changed(folder, values):
        raise UserError(f"output_dir: {folder} holds a run with {key} {before!r}, not {now!r}; {_CHOICE}.")


def _changed(folder: Path, values: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys that make another run than the one in a folder, with their values there and in `values`."""
    earlier = yaml.safe_load((folder / RECIPE_FILE).read_text()) or {}
    values = without_secrets(values)  # as in the file; a signature may be another one by now
    found = keys_left_to_the_run(values)  # a run that resumes takes what it found
    for key in sorted((earlier.keys() | values.keys()) - _MAY_CHANGE - found):
        if earlier.get(key) != values.get(key):
            yield key, earlier.get(key), values.get(key)


def keys_left_to_the_run(values: Mapping[str, Any]) -> set[str]:
    """Return the keys whose values a run finds itself: what nobody states of images and precision, and what is "auto".

    Args:
        values: The resolved keys of its recipe.
    """
    found = {*FOUND_IN_IMAGES} if values.keys() & {"precision", "bf16", "fp16"} else {*FOUND_IN_IMAGES, "precision"}
    return (found - values.keys()) | {key for key, value in values.items() if value == AUTO}


def check_unchanged(folder: Path, checkpoint: Path | None, overwrite: bool) -> None:
    """Check that no other run has begun and ended in a folder since `find_resumable` has looked at it.

    Raises:
        UserError: One has; the same command finds what it has left.
    """
    newest = next(iter(list_checkpoints(folder)), None)
    if not overwrite and (newest != checkpoint or holds_result(folder)):
        raise UserError(f"output_dir: another run has used {folder} since this one began; start it again.")


def holds_result(folder: Path) -> bool:
    """Return whether a folder holds all that a run writes; one that was killed in its plots has its figures alone."""
    return (folder / METRICS_FILE).is_file() and not (folder / FINGERPRINT_FILE).is_file()


def _may_be_moved(folder: Path, earlier: Any, now: Any, data_anywhere: bool) -> bool:
    """Whether a dataset can be the same as one at another path, which the fingerprint of its data will show."""
    if not isinstance(earlier, str) or not isinstance(now, str) or not (folder / FINGERPRINT_FILE).is_file():
        return False
    is_gone = not Path(earlier).expanduser().exists()
    return Path(now).expanduser().exists() and (is_gone or data_anywhere)


def _holds_run(folder: Path) -> bool:
    recipe = folder / RECIPE_FILE
    return recipe.is_file() and recipe.read_bytes().startswith(_RECIPE_HEADER.encode())


def prepare_folder(folder: Path, recipe_yaml: str, overwrite: bool) -> None:
    """Create the folder of a run and write its recipe there, without the passwords of addresses.

    Args:
        folder: The folder of the run.
        recipe_yaml: The resolved recipe.
        overwrite: Whether the checkpoints and the result of an earlier run are removed first; other files stay.
    """
    if overwrite and folder.is_dir():
        remove_all(folder)
        for name in _RESULT_FILES:
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _UNFINISHED_RECIPE).write_text(
        _RECIPE_HEADER + without_secrets(recipe_yaml), encoding="utf-8", errors="backslashreplace"
    )
    flush(folder / _UNFINISHED_RECIPE)
    (folder / _UNFINISHED_RECIPE).replace(folder / RECIPE_FILE)  # without it, the folder counts as no run's
