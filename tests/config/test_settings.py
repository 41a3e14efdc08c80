"""`Settings` has the names and the types of the dataclasses. `python -m tests.config.test_settings` writes it anew."""

from __future__ import annotations

import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, Union

from transformers import TrainingArguments

from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.fields import OWN_GROUPS
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.config.training_keys import AUTO

FILE = Path(__file__).resolve().parents[2] / "hf_finetune" / "config" / "settings.py"
# Arguments of finetune() and evaluate() of their own.
ARGUMENTS = ("dataset", "loss", "teacher", "train_transforms")
# Settings that Transformers has since 5.23; those that the installed version lacks.
LATER = {"activation_checkpointing", "activation_checkpointing_kwargs"} - {*TrainingArguments.__dataclass_fields__}
PATHS = ("dataset_path", "load_from", "model_name_or_path", "output_dir")
HEADER = '''"""The keys of a recipe as the keyword arguments of `finetune` and `evaluate`, with their types.

Generated from the dataclasses of hf_finetune.config by `python -m tests.config.test_settings`; a test keeps them equal.
`dataset`, `loss`, `teacher` and `train_transforms` are missing, because they are arguments of their own.
"""

from __future__ import annotations

import os
from typing import Any, Literal, TypedDict


class Settings(TypedDict, total=False):
    """Settings of a run, each a key of a recipe; None takes a key back to its default.

    What each does stands in `hf-finetune train --help-all`; those below "Training" that this package does not change
    are of `transformers.TrainingArguments`.
    """
'''


def written(hint: Any) -> list[str]:
    """Returns the alternatives of a type as source, without None."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return [part for inner in typing.get_args(hint) for part in written(inner)]
    if hint is type(None):
        return []
    if origin in (list, dict):
        inner = [" | ".join(written(item)) for item in typing.get_args(hint)]
        return [f"{origin.__name__}[{', '.join(inner)}]"]
    if hint in (list, dict):
        return ["list[Any]" if hint is list else "dict[str, Any]"]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ["str"]
    return [hint.__name__] if hint in (bool, float, int, str) else ["Any"]


def source() -> str:
    known, lines = argument_fields(), [HEADER]
    for title, group in (OWN_GROUPS | {"Training": FinetuneArguments}).items():
        lines.append(f"    # {title}")
        for name, hint in sorted(typing.get_type_hints(group).items()):
            if name in known and name not in ARGUMENTS:
                kinds = written(hint)
                if AUTO in known[name].metadata:
                    kinds.append(f'Literal["{AUTO}"]')
                if name in PATHS:
                    kinds.append("os.PathLike[str]")
                kinds = ["Any"] if "Any" in kinds else list(dict.fromkeys(kinds))
                lines.append(f"    {name}: {' | '.join([*kinds, *(['None'] if kinds != ['Any'] else [])])}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def test_settings_are_the_keys_of_a_recipe():
    kept = [line for line in FILE.read_text().splitlines() if line.strip().partition(":")[0] not in LATER]
    assert "\n".join(kept) + "\n" == source()


def test_no_setting_is_an_argument_of_finetune():
    import inspect

    from hf_finetune import Settings, finetune

    named = [item.name for item in inspect.signature(finetune).parameters.values() if item.kind != item.VAR_KEYWORD]
    assert not set(named) & set(Settings.__annotations__)
    assert {*Settings.__annotations__, *ARGUMENTS} - LATER == set(argument_fields())


if __name__ == "__main__":
    FILE.write_text(source())
