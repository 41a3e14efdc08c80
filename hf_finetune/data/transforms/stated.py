"""What a recipe states of a transform: its name and its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from hf_finetune.errors import UserError, did_you_mean


def name_and_arguments(item: Any) -> tuple[Any, Any] | None:
    """Return the name and the arguments of an item of a list of transforms, None where it is no such item.

    Args:
        item: A name, or a mapping of one name to its arguments, of which nothing stands for none.
    """
    if isinstance(item, str):
        return item, {}
    if isinstance(item, Mapping) and len(item) == 1:
        name, arguments = next(iter(item.items()))
        return name, arguments or {}
    return None


def check_arguments(name: str, kind: type, arguments: Iterable[Any]) -> None:
    """Check that the class of a transform takes these arguments.

    Args:
        name: What a recipe calls it.
        kind: The class.
        arguments: The names of the arguments.

    Raises:
        UserError: It has no such argument.
    """
    parameters = list(inspect.signature(kind.__init__).parameters)[1:]  # type: ignore[misc]  # of the class itself
    for argument in arguments:
        if argument not in parameters:
            raise UserError(
                f'train_transforms: {name} has no argument "{argument}".{did_you_mean(str(argument), parameters)}'
                f" Its arguments are {', '.join(parameters)}."
            )
