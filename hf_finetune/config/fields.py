"""The keys of a recipe that this package defines itself, their types, and the answer to a key that is not there.

It needs neither torch nor Transformers, so that the commands' help and mistakes are answered at once.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Sequence
from dataclasses import Field, fields
from typing import Any, Union

from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.stock_keys import WITHHELD
from hf_finetune.config.synonyms import answer
from hf_finetune.config.training_keys import TrainingKeys
from hf_finetune.errors import UserError, did_you_mean

OWN_GROUPS: dict[str, type] = {"Model": ModelArguments, "Data": DataArguments, "Training": TrainingKeys}


def own_fields() -> dict[str, Field[Any]]:
    """Return the keys that this package defines itself, each with its dataclass field."""
    return {item.name: item for group in OWN_GROUPS.values() for item in fields(group) if item.name not in WITHHELD}


def value_types(group: type) -> dict[str, tuple[Any, ...]]:
    """Return the types that each field of a dataclass takes, None among them: `int | None` is (int, NoneType)."""
    return {
        name: typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
        for name, hint in typing.get_type_hints(group).items()
        if not name.startswith("_")
    }


def check_words(unknown: Sequence[str], known: Collection[str]) -> None:
    """Check that no word of a command line is left over.

    Args:
        unknown: The words that no flag claimed.
        known: The names of the flags, without dashes.

    Raises:
        UserError: For the first word, with what to use in its place: the name by which this package calls the same
            thing, or else the nearest spelling.
    """
    for word in unknown:
        if not word.startswith("-"):
            advice = f"; use --dataset {word} if it is your dataset" if "dataset" in known else ""
            raise UserError(f'"{word}" belongs to no flag{advice}.')
        flag = word.split("=")[0]
        name = flag.lstrip("-")
        if name in WITHHELD:
            raise UserError(f"There is no flag {flag} here: {WITHHELD[name]}.")
        if instead := answer(name, known):
            raise UserError(f'There is no flag "{flag}"; {instead}.')
        near = did_you_mean(name.replace("-", "_"), known).replace('"', '"--', 1)
        advice = near or " To list the flags of a command: hf-finetune COMMAND --help"
        raise UserError(f'There is no flag "{flag}".{advice}')
