"""Flags of the command line: one for each key of a recipe, and the parser that reads them.

A flag's value is read as the same YAML that a recipe's value is, so both are written alike: `--learning_rate 1e-2`,
`--lr_milestones 100 150`, `--train_transforms '[{Resize: {size: 224}}]'`, `--max_train_samples null`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn

from hf_finetune.config.fields import OWN_GROUPS, own_fields, value_types
from hf_finetune.config.recipe import read_value
from hf_finetune.errors import UserError
from hf_finetune.logs import COLUMNS

# The flags of `hf-finetune evaluate`: which images are evaluated, and how they are run through the model.
DATA_FLAGS = (
    "dataset",
    "dataset_path",
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
    "max_eval_samples",
    "on_bad_image",
    "image_channels",
    "value_range",
    "streaming",
    "num_labels",
    "model_revision",
    "trust_remote_code",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "disable_tqdm",
    "use_cpu",
    "seed",
    "log_level",
)

# The flags of `hf-finetune convert`: what a file of weights does not say itself.
CONVERT_FLAGS = (
    "load_from_sha256",
    "model_config",
    "image_size",
    "resize_mode",
    "crop_pct",
    "image_mean",
    "image_std",
    "resample",
)

OWN_TYPES = {name: types for group in OWN_GROUPS.values() for name, types in value_types(group).items()}
_MAY_BE_BLANK = ("label_separator",)  # flags whose value may be a blank
_METAVARS = {int: "N", float: "X", str: "TEXT", dict: "MAPPING"}


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and exit code 2, without the usage, and whose help is 80 wide.

    Args:
        prog: The command, such as `hf-finetune train`.
        settings: Keyword arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog=prog, allow_abbrev=False, formatter_class=_formatter, **settings)

    @property
    def flag_names(self) -> list[str]:
        """The names of the flags, without dashes."""
        return [option.removeprefix("--") for option in self._option_string_actions if option.startswith("--")]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, and refuse an empty value: as a path it would mean the folder that one is in.

        Raises:
            UserError: For wrong words, and for an empty value, such as that of a shell variable that is not set.
        """
        parsed, unknown = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            if isinstance(value, str) and not value.strip() and (not value or action.dest not in _MAY_BE_BLANK):
                name = (action.option_strings or [str(action.metavar or action.dest)])[-1]
                advice = "leave the flag out, or give it a value" if action.option_strings else "give it a value"
                raise UserError(f'{name} is empty ("{value}"); {advice}.')
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` in place of argparse's usage and exit."""
        raise UserError(f"{message.rstrip('.')}; its use is shown by: {self.prog} --help")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=28, width=COLUMNS)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names a recipe."""
    parser.add_argument("--recipe", metavar="NAME_OR_PATH", help="A packaged recipe's name or a YAML file.")


def add_argument_flags(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add one flag for each key of a recipe that this package defines, in the groups of the dataclasses.

    Flags that the user does not type leave no trace in the result.

    Args:
        parser: The parser that gets the flags.
        names: The keys; all of the package's own by default.
    """
    known = set(own_fields() if names is None else names)
    for title, group in OWN_GROUPS.items():
        items = [item for item in fields(group) if item.name in known]
        if items:
            section = parser.add_argument_group(title.lower())
            for item in items:
                _add_flag(section, item, OWN_TYPES[item.name])


def add_inherited_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all other keys of `transformers.TrainingArguments`, which costs a look into its source."""
    from hf_finetune.config.arguments import KEY_TYPES, argument_fields

    section = parser.add_argument_group("inherited from transformers.TrainingArguments")
    for name, item in argument_fields().items():
        if name not in own_fields():
            _add_flag(section, item, KEY_TYPES[name])


def _add_flag(section: Any, item: Field[Any], types: Sequence[Any]) -> None:
    shape: dict[str, Any] = {"metavar": metavar(item, types)}
    if takes_list(types):
        shape["nargs"] = "*"
    if bool in types:  # the flag alone says yes
        shape.update(nargs="?", const="true")
    section.add_argument(f"--{item.name}", default=argparse.SUPPRESS, help=describe(item).replace("%", "%%"), **shape)


def takes_list(types: Sequence[Any]) -> bool:
    """Return whether a key of these types takes several values."""
    return any(getattr(kind, "__origin__", kind) is list for kind in types)


def metavar(item: Field[Any], types: Sequence[Any]) -> str:
    """Return what stands for a key's value in a help text: its choices, or a word for its type."""
    if "choices" in item.metadata:
        return "|".join(map(str, item.metadata["choices"]))
    if bool in types:
        return "true|false"
    kinds = [getattr(kind, "__origin__", kind) for kind in types]
    return next((word for kind, word in _METAVARS.items() if kind in kinds), "VALUE")


def describe(item: Field[Any]) -> str:
    """Return the help text of a key with its default."""
    text = " ".join(str(item.metadata.get("help", "")).replace("%%", "%").split())
    shown = default_of(item)
    return text if shown is None else f"{text} Default: {shown}.".lstrip()


def default_of(item: Field[Any]) -> str | None:
    """Return a key's default as it would be written as a flag, or None for a key that has none."""
    value = item.default if item.default is not MISSING else None
    if item.default_factory is not MISSING:
        value = item.default_factory()
    value = getattr(value, "value", value)
    if value is None or value in ([], {}, ""):
        return None
    if isinstance(value, list):
        return " ".join(f"{entry:g}" if isinstance(entry, float) else str(entry) for entry in value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def flag_values(namespace: argparse.Namespace, types: Mapping[str, tuple[Any, ...]] = OWN_TYPES) -> dict[str, Any]:
    """Return the keys that the user typed as flags, each value read as YAML.

    Args:
        namespace: What the parser returned.
        types: The keys, each with the types that it takes; the package's own by default.
    """
    return {name: _value(name, typed, types[name]) for name, typed in vars(namespace).items() if name in types}


def _value(name: str, typed: Any, types: tuple[Any, ...]) -> Any:
    if set(types) == {str, list[str], type(None)}:  # names as typed
        names = [None if word == "null" else word for word in typed]
        return names[0] if len(names) == 1 else names
    if isinstance(typed, list):
        items = [read_value(word, f"--{name}") for word in typed]
        or_word = str in types and list[str] not in types
        alone = len(items) == 1 and (int in types or or_word or isinstance(items[0], (list, type(None))))
        return items[0] if alone else items
    if str in types and not {bool, int, float, dict} & set(types):
        return None if typed == "null" else typed  # words as typed: a folder may be called 2024
    return read_value(typed, f"--{name}")
