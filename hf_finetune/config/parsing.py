"""Turns a recipe's values and the command line's words into the three dataclasses.

A flag's value is read as the same YAML that a recipe's value is, so both are written alike: `--learning_rate 1e-2`,
`--lr_milestones 100 150`, `--train_transforms '[{Resize: {size: 224}}]'`, `--max_train_samples null`.
"""

from __future__ import annotations

import argparse
import math
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, fields
from enum import Enum
from typing import Any, Union

from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import Recipe, read_value
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import OneLineParser as OneLineParser
from hf_finetune.errors import UserError, did_you_mean

GROUPS = {"Model": ModelArguments, "Data": DataArguments, "Training": FinetuneArguments}
# Stock fields that this package's own steps take the place of, or that would undo a decision of its, and what to do.
_WITHHELD = {
    "do_train": "training and the final evaluation are always done; hf-finetune evaluate evaluates alone",
    "do_eval": "eval_strategy says when to evaluate",
    "do_predict": "hf-finetune predict classifies images",
    "remove_unused_columns": "no column is dropped",
    "resume_from_checkpoint": "the same command resumes the run resumes an interrupted run by itself",
    "local_rank": "torchrun and accelerate launch set it",
    "neftune_noise_alpha": "its noise is for language models",
    "auto_find_batch_size": "it would change global_batch_size; use a lower per_device_train_batch_size",
    "hub_token": "set HF_TOKEN or log in with hf auth login; here it would be written into the recipe",
    "hub_strategy": "push_to_hub pushes the whole result once, at the end, and no checkpoints",
    "hub_always_push": "push_to_hub pushes the whole result once, at the end",
    "hub_revision": "push_to_hub pushes to the main branch",
}
# The flags of `hf-finetune evaluate`: what says which images, and how they are run through the model.
DATA_FLAGS = (
    "dataset",
    "dataset_path",
    "dataset_config",
    "dataset_revision",
    "image_column",
    "label_column",
    "train_split",
    "validation_split",
    "test_split",
    "max_eval_samples",
    "on_bad_image",
    "streaming",
    "num_labels",
    "model_revision",
    "trust_remote_code",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "use_cpu",
    "seed",
)

# The flags of `hf-finetune convert`: what a file of weights does not say itself.
CONVERT_FLAGS = (
    "load_from_sha256",
    "model_config",
    "image_size",
    "crop_pct",
    "image_mean",
    "image_std",
    "resample",
)


def argument_fields() -> dict[str, Field]:
    """Returns every key of a recipe, which is every flag, with its dataclass field."""
    return {item.name: item for group in GROUPS.values() for item in fields(group) if item.name not in _WITHHELD}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


_HINTS = {
    name: _alternatives(hint)
    for group in GROUPS.values()
    for name, hint in typing.get_type_hints(group).items()
    if not name.startswith("_")
}


def _takes_list(name: str) -> bool:
    return any(typing.get_origin(hint) is list for hint in _HINTS[name])


def coerce(name: str, value: Any, origin: str) -> Any:
    """Returns a recipe's value as the type of field `name`; raises `UserError` naming `origin` if it is none."""
    hints = _HINTS[name]
    if value is None:
        return None
    for hint in hints:
        if typing.get_origin(hint) is list and (isinstance(value, list) or str not in hints):
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
    default = argument_fields()[name].default
    example = f", such as {default}" if isinstance(default, (int, float)) and default > 0 else ""
    raise UserError(f"{name}: {value!r} is not a number, in {origin}; use one{example}.")


def _expected(hints: Sequence[Any]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    return " or ".join(words[hint] for hint in hints if hint in words) or "a mapping, such as {key: value}"


def build_arguments(recipe: Recipe) -> tuple[ModelArguments, DataArguments, FinetuneArguments]:
    """Builds the three dataclasses from a resolved recipe. Raises `UserError` for a value that does not fit."""
    groups = []
    for group in GROUPS.values():
        names = {item.name for item in fields(group)} & recipe.values.keys()
        values = {name: coerce(name, recipe.values[name], recipe.origins[name]) for name in names}
        try:
            groups.append(group(**values))
        except (ImportError, OSError, ValueError) as error:  # the stock arguments' own checks
            raise UserError(" ".join(str(error).split())) from error
    model, data, training = groups
    return model, data, training


def add_argument_flags(parser: argparse.ArgumentParser, names: Collection[str] | None = None) -> None:
    """Adds one flag for every field, or for those in `names`, in the groups of the dataclasses.

    Absent flags leave no trace in the result.
    """
    known = argument_fields().keys() if names is None else names
    for title, group in GROUPS.items():
        section = parser.add_argument_group(title)
        for item in fields(group):
            if item.name in known:
                text = item.metadata.get("help", "Of transformers.TrainingArguments.").replace("%", "%%")
                shape = {"nargs": "*"} if _takes_list(item.name) else {}
                if bool in _HINTS[item.name]:  # the flag alone says yes
                    shape = {"nargs": "?", "const": "true"}
                section.add_argument(f"--{item.name}", default=argparse.SUPPRESS, metavar="VALUE", help=text, **shape)


def flag_values(namespace: argparse.Namespace) -> dict[str, Any]:
    """Returns the flags that the user typed, each value read as YAML."""
    values = {}
    for name in argument_fields():
        if name not in namespace:
            continue
        typed = getattr(namespace, name)
        if isinstance(typed, list):
            items = [read_value(word, f"--{name}") for word in typed]
            values[name] = items[0] if len(items) == 1 and isinstance(items[0], (list, type(None))) else items
        elif str in _HINTS[name] and not {bool, int, float, dict} & set(_HINTS[name]):
            values[name] = None if typed == "null" else typed  # words as typed: a folder may be called 2024
        else:
            values[name] = read_value(typed, f"--{name}")
    return values


def check_flags(unknown: Sequence[str], names: Collection[str] | None = None) -> None:
    """Raises `UserError` for the first word that no flag claims, with the nearest spelling among `names` or all."""
    known = ["--recipe", *map("--{}".format, argument_fields())] if names is None else map("--{}".format, names)
    for word in unknown:
        if word.startswith("-"):
            flag = word.split("=")[0]
            if flag.removeprefix("--") in _WITHHELD:
                raise UserError(f"There is no flag {flag} here: {_WITHHELD[flag.removeprefix('--')]}.")
            advice = did_you_mean(flag, known) or " To list the flags of a command: hf-finetune COMMAND --help"
            raise UserError(f'There is no flag "{flag}".{advice}')
        raise UserError(f'"{word}" belongs to no flag; use --dataset {word} if it is your dataset.')
