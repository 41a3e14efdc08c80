"""Shell completion: a script for bash or zsh, made from the commands' own parsers by shtab.

The script lists commands, flags and choices as they are when it is made, so that completing starts no Python at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from hf_finetune.cli.command import Command
from hf_finetune.cli.flags import OneLineParser
from hf_finetune.errors import UserError

SHELLS = ("bash", "zsh")
_PATHS = ("dataset", "dataset_path", "load_from", "model_name_or_path", "output", "output_dir", "recipe")


def completion_script(shell: str, commands: Iterable[Command]) -> str:
    """Return the completion script of a shell.

    Args:
        shell: One of `SHELLS`.
        commands: The commands to complete, each with its flags.

    Raises:
        UserError: If shtab, an optional package, is not installed.
    """
    if find_spec("shtab") is None:
        raise UserError("completion needs the package shtab; install it with: pip install 'hf-finetune[completion]'")
    import shtab

    parser = OneLineParser("hf-finetune")
    words = parser.add_subparsers()
    for command in commands:
        source = command.parser()
        for action in source._actions:
            if not action.option_strings or action.dest in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.choices is None and isinstance(action.metavar, str) and "|" in action.metavar:
                action.choices = action.metavar.split("|")
        words.add_parser(command.name, help=command.help, parents=[source], add_help=False)
    return str(shtab.complete(parser, shell=shell))
