"""From a recipe to what a run will do: its arguments, its folder, and where it resumes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_finetune.config.arguments import argument_fields, build_arguments
from hf_finetune.config.data import DataArguments
from hf_finetune.config.loss_keys import check_distillation
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import Recipe, load_recipe, override
from hf_finetune.config.run_files import RECIPE_FILE
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.config.training_keys import FLOAT32
from hf_finetune.data.catalog import CATALOG, find_entry
from hf_finetune.data.sources.open import find_source
from hf_finetune.errors import UserError
from hf_finetune.hub.push import check_push
from hf_finetune.logs import get_logger
from hf_finetune.training.checkpoints.lock import check_unused
from hf_finetune.training.checkpoints.run_folder import FOUND_IN_IMAGES, find_resumable, keys_left_to_the_run
from hf_finetune.training.choice import check_own_loss
from hf_finetune.training.given import Given, check_same_objects

logger = get_logger(__name__)

_RUNS = Path("runs")  # where results go that nobody names a folder for


@dataclass(frozen=True)
class RunPlan:
    """What a run will do. Nothing is loaded or written yet.

    Attributes:
        recipe: The resolved recipe, its output_dir included.
        given: What a Python caller gave as objects.
        model: Which network.
        data: Which images.
        args: How it is trained.
        folder: Where the result will be.
        checkpoint: Where an interrupted run resumes, None for a new one.
        repository: Where this process will push the result, None where it will not.
    """

    recipe: Recipe
    given: Given
    model: ModelArguments
    data: DataArguments
    args: FinetuneArguments
    folder: Path
    checkpoint: Path | None
    repository: str | None


def plan_run(recipe: Recipe, given: Given) -> RunPlan:
    """Return the plan of a run.

    Raises:
        UserError: For values that do not fit, a dataset that is not there, and a folder that cannot be used.
    """
    _check_launcher()
    check_own_loss(recipe)
    model, data, args = build_arguments(recipe)
    check_distillation(args, given.teacher is not None or args.teacher is not None)
    if given.dataset is None:
        find_source(data)  # its typo is told before anything about a folder that is named after it
    stated = "output_dir" in recipe.values
    base = Path(args.output_dir or "") if stated else _RUNS / run_name(recipe, data, given)
    if not args.is_shared(base):
        raise UserError(
            f"output_dir: {base} is not the same folder on all machines, and checkpoints would not be whole; use"
            " one on a disk that all of them share."
        )
    with args.main_process_first(local=False, desc="checkpoints"):  # the others find corrupt ones set aside
        newest = 1 if stated else max(_numbers(base), default=1)
        if args.process_index == 0:
            check_unused(_numbered(base, newest))
        if stated:
            folder, checkpoint = _find_run(base, recipe, given, args.overwrite_output_dir)
        else:
            folder, checkpoint = _find_numbered(base, newest, recipe, given, args.overwrite_output_dir)
    if checkpoint is not None:
        found = _found_before(recipe, folder)
        recipe = override(recipe, found, f"{folder / RECIPE_FILE}")
        data = replace(data, **{key: found[key] for key in FOUND_IN_IMAGES if key in found})
        args.num_train_epochs = found.get("num_train_epochs", args.num_train_epochs)
        args.use_precision(found.get("precision", args.precision))
    args.output_dir = str(folder)
    if args.report_to and args.run_name is None:
        args.run_name = folder.name  # trackers would invent one
    repository = None
    if args.push_to_hub:
        args.push_to_hub = False  # the stock Trainer's pushes fail in silence; the whole folder is pushed at the end
        if args.process_index == 0:
            repository = check_push(args.hub_model_id, folder, args.hub_private_repo)
    if not stated:
        recipe = override(recipe, {"output_dir": str(folder)})
    return RunPlan(recipe, given, model, data, args, folder, checkpoint, repository)


def _found_before(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the keys that a recipe leaves to the run, as the unfinished run in a folder has found them."""
    earlier = load_recipe(folder / RECIPE_FILE, argument_fields()).values
    earlier = {"precision": FLOAT32} | earlier  # what runs did before there was a choice
    return {key: earlier[key] for key in keys_left_to_the_run(recipe.values) if key in earlier}


def _check_launcher() -> None:
    """Check that no srun or mpirun has started several processes that know nothing of each other."""
    if "WORLD_SIZE" in os.environ:
        return
    for program, name in (
        ("srun", "SLURM_STEP_NUM_TASKS"),
        ("mpirun", "OMPI_COMM_WORLD_SIZE"),
        ("mpiexec", "PMI_SIZE"),
    ):
        count = os.environ.get(name, "1")
        if count.isdigit() and int(count) > 1:
            raise UserError(
                f"{program} started {count} processes that do not train together and would write into one folder; use"
                " sbatch scripts/slurm.sh, or let it start one process on each machine:"
                " torchrun scripts/run_finetune.py ..."
            )


def run_name(recipe: Recipe, data: DataArguments, given: Given) -> str:
    """Return what a run is called that nobody names: after data of one's own, else after its recipe."""
    if given.dataset is not None:
        return given.dataset.name
    dataset = data.dataset
    own = dataset is not None and (Path(dataset).expanduser().exists() or find_entry(dataset) is None)
    by_recipe = recipe.origins.get("dataset", "").endswith((".yaml", ".yml"))  # then its name says as much
    if dataset is None or dataset in CATALOG or not own or by_recipe:
        return recipe.name
    path = Path(dataset).expanduser()
    name = path.name if path.name.strip(".") else path.resolve().name  # of "." and ".."
    name = name if path.is_dir() else name.partition(".")[0]
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or recipe.name


def _find_run(
    folder: Path, recipe: Recipe, given: Given, overwrite: bool, data_anywhere: bool = True
) -> tuple[Path, Path | None]:
    checkpoint = find_resumable(folder, recipe.values, overwrite, data_anywhere)
    if checkpoint is not None:
        check_same_objects(folder, given)
    return folder, checkpoint


def _find_numbered(base: Path, newest: int, recipe: Recipe, given: Given, overwrite: bool) -> tuple[Path, Path | None]:
    """Return the newest of runs/name, runs/name-2 ... where its run resumes or was never begun, else the next."""
    folder = _numbered(base, newest)
    if overwrite or not folder.exists():
        return _find_run(folder, recipe, given, overwrite)
    try:  # another dataset of the same name gets a folder of its own
        return _find_run(folder, recipe, given, overwrite, data_anywhere=False)
    except UserError as reason:
        following = _numbered(base, newest + 1)
        found = _find_run(following, recipe, given, overwrite)
        logger.info(f"{str(reason).removeprefix('output_dir: ').split(';')[0]}; this run goes into {following}.")
        return found


def _numbers(base: Path) -> list[int]:
    """Return the numbers of the folders of a name that are there; 1 is the name alone."""
    found = [1] if base.exists() else []
    for path in base.parent.glob(f"{base.name}-*") if base.parent.is_dir() else ():
        number = path.name.removeprefix(f"{base.name}-")
        if number.isdigit() and int(number) > 1:
            found.append(int(number))
    return found


def _numbered(base: Path, number: int) -> Path:
    return base if number == 1 else base.with_name(f"{base.name}-{number}")
