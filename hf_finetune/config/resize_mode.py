"""What a list of training transforms does to images of another shape than the network's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_finetune.config.recipe import Recipe, override
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

_CUTTING = ("RandomResizedCrop", "RandomCrop", "CenterCrop", "RandomIoUCrop", "FiveCrop", "TenCrop")
_STEPS = {"crop": "RandomResizedCrop", "squash": "Resize", "pad": "Letterbox"}  # what each mode is in training


def in_stated_mode(recipe: Recipe) -> Recipe:
    """Return a recipe whose training transforms bring images to the network's shape in the stated way.

    It is for a `resize_mode` that stands over the list of transforms: in a flag, an argument of a call, or a file over
    the one with the list. The step of the list that does it in another way is replaced. A list that stands beside the
    mode, or over it, stays as it is.
    """
    mode = str(recipe.values.get("resize_mode"))
    listed = recipe.values.get("train_transforms")
    items = listed[:] if isinstance(listed, list) else []  # mistakes in it are told later
    place = next((place for place, item in enumerate(items) if training_mode([item])), None)
    if mode not in _STEPS or place is None or recipe.layers["resize_mode"] <= recipe.layers["train_transforms"]:
        return recipe
    replaced = items[place]
    name, arguments = next(iter(replaced.items())) if isinstance(replaced, Mapping) else (replaced, None)
    size = recipe.values.get("image_size") or (arguments.get("size") if isinstance(arguments, Mapping) else None)
    if name not in _STEPS.values() or name == _STEPS[mode] or size is None or not isinstance(arguments, Mapping):
        return recipe
    step = {"size": size if isinstance(size, (list, tuple)) else [size, size]}
    if "interpolation" in arguments:
        step["interpolation"] = arguments["interpolation"]
    origin = recipe.origins["resize_mode"]
    by = "" if origin == "--resize_mode" else f" ({origin})"
    logger.info(f"resize_mode {mode}{by}: {_STEPS[mode]} takes the place of {name} in the recipe's transforms.")
    items[place] = {_STEPS[mode]: step}
    return override(recipe, {"train_transforms": items}, origin)


def training_mode(items: Sequence[Any]) -> str | None:
    """Return what a list of training transforms does to images of another shape, None where it does not say.

    Args:
        items: Names, or mappings of one name to its arguments, as in a recipe.
    """
    for item in items:
        name, arguments = next(iter(item.items()), (None, None)) if isinstance(item, Mapping) else (item, None)
        size = arguments.get("size") if isinstance(arguments, Mapping) else None
        if name in _CUTTING:
            return "crop"
        if name == "Letterbox":
            return "pad"
        if name == "Resize" and isinstance(size, (list, tuple)) and len(size) == 2:
            return "squash"
    return None
