"""The values of a recipe as the three dataclasses of arguments, and the answer to keys that are not there.

Values are checked without torch and Transformers, which take seconds to import; only `build_arguments` needs them.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, make_dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from hf_finetune.config.data import DataArguments
from hf_finetune.config.fields import OWN_GROUPS, check_words, own_fields, value_types
from hf_finetune.config.loss_keys import check_distillation, check_weighted
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import Recipe
from hf_finetune.config.stock_fields import stock_fields, stock_types
from hf_finetune.config.stock_keys import WITHHELD
from hf_finetune.config.training_keys import AUTO, TrainingKeys
from hf_finetune.config.validation import check_training
from hf_finetune.errors import UserError

if TYPE_CHECKING:
    from hf_finetune.config.training import FinetuneArguments

Group = TypeVar("Group")


@cache
def argument_fields() -> dict[str, Field[Any]]:
    """Return every key of a recipe, which is every flag of `train`, with its dataclass field."""
    return {name: item for name, item in (stock_fields() | own_fields()).items() if name not in WITHHELD}


# The types that each key takes, None among them.
KEY_TYPES: dict[str, tuple[Any, ...]] = {
    name: kinds
    for types in (stock_types(), *map(value_types, OWN_GROUPS.values()))
    for name, kinds in types.items()
    if name in argument_fields()
}


def coerce(name: str, value: Any, origin: str) -> Any:
    """Return a recipe's value in the type of its key.

    Args:
        name: The key.
        value: Its value, as YAML has it.
        origin: Where it was set, for the message: a file or a flag.

    Raises:
        UserError: For a value of another type.
    """
    hints, metadata = KEY_TYPES[name], argument_fields()[name].metadata
    if value is None:
        return None
    if value == AUTO and AUTO in metadata:
        return metadata[AUTO]
    if isinstance(value, str) and not value.strip() and argument_fields()[name].default != "":
        raise UserError(f"{name} is empty, in {origin}; give it a value, or leave it out.")
    for hint in hints:
        if typing.get_origin(hint) is list and (isinstance(value, list) or not {str, int} & set(hints)):
            (item,) = typing.get_args(hint) or (Any,)
            items = value if isinstance(value, list) else [value]
            return [_number(name, entry, origin) for entry in items] if item is float else items
    if isinstance(value, Mapping) and (dict in hints or any(typing.get_origin(hint) is dict for hint in hints)):
        return dict(value)
    if bool in hints and isinstance(value, bool):
        return value
    if isinstance(value, (list, Mapping)) or (isinstance(value, bool) and str not in hints):
        raise UserError(f"{name}: {value!r} does not fit, in {origin}; use {_expected(hints)}.")
    if float in hints or int in hints:
        number = _number(name, value, origin)
        if float not in hints and number != int(number):
            raise UserError(f"{name}: {value} is not a whole number, in {origin}.")
        return number if float in hints else int(number)
    if bool in hints and str not in hints:
        raise UserError(f"{name}: {value!r} is neither true nor false, in {origin}.")
    if isinstance(value, Enum):
        return value
    if str in hints or any(isinstance(hint, type) and issubclass(hint, Enum) for hint in hints):
        return str(value)
    raise UserError(f"{name}: {value!r} does not fit, in {origin}; use {_expected(hints)}.")


def _number(name: str, value: Any, origin: str) -> float | int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    item = argument_fields()[name]
    example = f", such as {item.default}" if isinstance(item.default, (int, float)) and item.default > 0 else ""
    word = f", or {AUTO}" if AUTO in item.metadata else ""
    raise UserError(f"{name}: {value!r} is not a number, in {origin}; use one{example}{word}.")


def _expected(hints: Sequence[Any]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    return " or ".join(words[hint] for hint in hints if hint in words) or "a mapping, such as {key: value}"


def check_values(recipe: Recipe) -> tuple[ModelArguments, DataArguments]:
    """Check the values of a resolved recipe, but for what depends on the machine.

    Returns:
        Which network it names, and which images.

    Raises:
        UserError: For a value that does not fit, and for values that contradict each other.
    """
    named, training = _named(recipe), _build(_training_values(), recipe)
    check_training(training)
    check_weighted(named[1].weight_column, training)
    check_distillation(training, training.teacher is not None)
    return named


@cache
def _training_values() -> type[FinetuneArguments]:
    """Return a dataclass that has the fields of `FinetuneArguments`, and nothing else of it."""
    inherited = [(name, item.type, item) for name, item in stock_fields().items() if name not in own_fields()]
    made: Any = make_dataclass("TrainingValues", inherited, bases=(TrainingKeys,), repr=False, eq=False)
    return made


def build_arguments(recipe: Recipe) -> tuple[ModelArguments, DataArguments, FinetuneArguments]:
    """Build the three dataclasses from a resolved recipe.

    Raises:
        UserError: For a value that does not fit, and for values that contradict each other.
    """
    from hf_finetune.config.training import FinetuneArguments

    named, args = _named(recipe), _build(FinetuneArguments, recipe)
    check_weighted(named[1].weight_column, args)
    return *named, args


def _named(recipe: Recipe) -> tuple[ModelArguments, DataArguments]:
    return _build(ModelArguments, recipe), _build(DataArguments, recipe)


def _build(group: type[Group], recipe: Recipe) -> Group:
    names = [item.name for item in fields(group) if item.name in recipe.values]  # type: ignore[arg-type]
    try:
        return group(**{name: coerce(name, recipe.values[name], recipe.origins[name]) for name in names})
    except (ImportError, OSError, ValueError) as error:  # the stock arguments' own checks
        raise UserError(" ".join(str(error).split())) from error


def check_flags(unknown: Sequence[str]) -> None:
    """Raise `UserError` for the first of `unknown`, words that are no flag of `train`; see `check_words`."""
    check_words(unknown, ["recipe", *argument_fields()])
