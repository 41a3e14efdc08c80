"""What every command of `hf-finetune` is: a name, a line of help, its flags and what it does."""

from __future__ import annotations

import argparse
import gc
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from hf_finetune.cli.flags import OneLineParser, add_inherited_flags, flag_values
from hf_finetune.cli.known_names import known_names
from hf_finetune.cli.late_imports import late_imports
from hf_finetune.logs import COLUMNS, LEVELS

if TYPE_CHECKING:
    from hf_finetune.config.recipe import Recipe

_USAGE = " " * len("usage: ")


class Command(ABC):
    """One command. A subclass that stands in `hf_finetune.cli.commands.COMMANDS` is on the command line.

    The help and the flags of a command need neither torch nor Transformers; `run` imports what it needs.

    Attributes:
        name: The word after `hf-finetune`.
        help: What it does, a phrase in small letters for the list of commands.
        details: A sentence more for its own help.
        usage: What follows its name.
        resumes: Whether the same command continues one that was interrupted.
        takes_training_keys: Whether every key of `transformers.TrainingArguments` is a flag.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    details: ClassVar[str] = ""
    usage: ClassVar[str]
    resumes: ClassVar[bool] = False
    takes_training_keys: ClassVar[bool] = False

    @abstractmethod
    def register(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments and flags to its parser."""

    def register_inherited(self, parser: argparse.ArgumentParser) -> bool:
        """Add the flags that are read from Transformers; return whether there are any."""
        if self.takes_training_keys:
            add_inherited_flags(parser)
        return self.takes_training_keys

    @abstractmethod
    def run(self, namespace: argparse.Namespace) -> int:
        """Do the work and return the exit code.

        Args:
            namespace: The parsed arguments and flags, and `command_line`, the command as it was typed.
        """

    def parser(self) -> OneLineParser:
        """Return the command's parser. `--log_level` is a flag of every command."""
        description = f"{self.help[0].upper()}{self.help[1:]}. {self.details}".rstrip()
        prog = f"hf-finetune {self.name}"
        usage = textwrap.fill(f"{prog} {self.usage}", COLUMNS, initial_indent=_USAGE, subsequent_indent=_USAGE)
        parser = OneLineParser(prog, usage=usage.removeprefix(_USAGE), description=description, add_help=False)
        self.register(parser)
        if "help" not in parser.flag_names:
            parser.add_argument("-h", "--help", action="help", help="Show this help.")
        if "log_level" not in parser.flag_names:
            parser.add_argument(
                "--log_level",
                choices=LEVELS,
                default=argparse.SUPPRESS,
                metavar="|".join(LEVELS),
                help="Least severe messages to show. Default: info.",
            )
        return parser


@contextmanager
def importing() -> Iterator[None]:
    """Import libraries in the block without the garbage collector, and keep their objects out of its sight.

    It would look through all of them again and again: importing takes 3.4 s instead of 4.1 s. What Transformers imports
    for other tasks is left until it is used.
    """
    gc.disable()
    try:
        with known_names(), late_imports():
            yield
    finally:
        gc.freeze()
        gc.enable()


def recipe_of(namespace: argparse.Namespace) -> Recipe:
    """Return the recipe that the flags of a command ask for: `--recipe`, and the keys that stand over it.

    Its mistakes are told before a command imports what takes seconds.
    """
    from hf_finetune.config.arguments import KEY_TYPES
    from hf_finetune.training.choice import check_recipe, choose_recipe

    recipe = choose_recipe(namespace.recipe, flag_values(namespace, KEY_TYPES), "--{}".format)
    check_recipe(recipe)
    return recipe


def check_settings(settings: Mapping[str, Any], needs_data: bool = True) -> None:
    """Check the keys of a recipe that a command is given, before it imports what takes seconds.

    Args:
        settings: The keys with their values; None for one that is not given.
        needs_data: Whether they must name a dataset.
    """
    from hf_finetune.config.recipe import Recipe
    from hf_finetune.training.choice import check_recipe

    given = {key: value for key, value in settings.items() if value is not None}
    check_recipe(Recipe("flags", given, {key: f"--{key}" for key in given}), needs_data)
