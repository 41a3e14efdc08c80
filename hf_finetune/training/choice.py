"""Which recipe a run follows, and what is wrong with it. It needs neither torch nor Transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_finetune.config.arguments import argument_fields, check_values
from hf_finetune.config.checkpoint_names import resolve_checkpoint
from hf_finetune.config.loss_keys import is_own_loss
from hf_finetune.config.recipe import Recipe, load_recipe, override, packaged_recipes
from hf_finetune.config.resize_mode import in_stated_mode
from hf_finetune.data.catalog import CATALOG, DEFAULT_RECIPE, find_entry
from hf_finetune.data.sources.open import find_source
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

_TYPED = ("--loss", "finetune(loss=...)", 'recipe["loss"]')  # origins that are a command line or a Python program
FROM_SCRATCH = "from_scratch"  # the recipe in place of DEFAULT_RECIPE for random weights


def choose_recipe(
    recipe: str | None, settings: Mapping[str, Any], origin: Callable[[str], str], random_weights: bool = False
) -> Recipe:
    """Return the named recipe, or the one that the dataset picks, with `settings` over it.

    The recipe for own images is made for pretrained weights; without them another takes its place, which is logged.

    Args:
        recipe: A packaged name, a path, or None.
        settings: Keys of a recipe with their values.
        origin: Returns where a setting stands, from its key.
        random_weights: Whether the caller gives a network that has no other weights.

    Raises:
        UserError: Without recipe and dataset, and for a recipe that cannot be had.
    """
    if recipe in CATALOG and recipe not in packaged_recipes() and not Path(recipe).exists():
        raise UserError(f"recipe: {recipe} is a dataset; use --dataset {recipe}, which picks its recipe.")
    if recipe is not None and Path(recipe).is_dir():
        raise UserError(f"recipe: {recipe} is a folder; use a YAML file, or --dataset {recipe} if it holds images.")
    if recipe is None:
        dataset = settings.get("dataset")
        if dataset is None:
            raise UserError("There is nothing to train on; use --dataset cifar10 or --recipe resnet50_cifar10.")
        entry = None if Path(dataset).exists() and dataset not in CATALOG else find_entry(dataset)
        recipe = entry.recipe if entry else DEFAULT_RECIPE
    chosen = override(load_recipe(recipe, argument_fields()), settings, origin)
    values = chosen.values
    without = values.get("pretrained") is False or ("model_type" in values and "load_from" not in values)
    if recipe == DEFAULT_RECIPE and (random_weights or without):
        logger.info(f"The weights are random, so the recipe is {FROM_SCRATCH} and not {DEFAULT_RECIPE}.")
        chosen = override(load_recipe(FROM_SCRATCH, argument_fields()), settings, origin)
    return in_stated_mode(chosen)


def check_recipe(recipe: Recipe, needs_data: bool = True) -> None:
    """Check a recipe, but for what depends on the machine, before anything is imported that takes seconds.

    Args:
        recipe: The recipe, or the keys that another command than `train` is given.
        needs_data: Whether it must name a dataset.

    Raises:
        UserError: For values that do not fit or contradict each other, and for a dataset or a checkpoint that is not
            there.
    """
    check_own_loss(recipe)
    model, data = check_values(recipe)
    if needs_data or data.dataset or data.dataset_path:
        find_source(data)
    if model.model_name_or_path is not None and model.load_from is None and model.model_type is None:
        resolve_checkpoint(model.model_name_or_path)


def check_own_loss(recipe: Recipe) -> None:
    """Check that the user has typed the dotted name of a loss: a file, which may be somebody else's, runs no code."""
    name, origin = str(recipe.values.get("loss", "")), recipe.origins.get("loss", "")
    if is_own_loss(name) and origin not in _TYPED:
        raise UserError(f"loss is {name}, in {origin}, and a file runs no code; to run that code use --loss {name}.")
