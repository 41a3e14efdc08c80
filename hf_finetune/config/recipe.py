"""A recipe is YAML with `_base_` inheritance, resolved into one flat mapping that knows its sources.

`_base_` names one file or a list of files. Each name is looked for relative to the file that states it, then among the
packaged recipes (with or without `.yaml`). A later base wins over an earlier one, a file over its bases, the command
line over all. Mappings merge key by key, lists are replaced whole, and `null` takes a value back to its default.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from hf_finetune.config.stock_keys import WITHHELD
from hf_finetune.config.synonyms import answer
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.shown_text import one_line

RECIPES_FOLDER = Path(__file__).resolve().parents[1] / "recipes"
BASE_KEY = "_base_"

_BOOL_TAG = "tag:yaml.org,2002:bool"
_FLOAT_TAG = "tag:yaml.org,2002:float"
_TEXT_TAG = "tag:yaml.org,2002:str"
_TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"
# `1e-2` is a number in YAML 1.2 and everywhere else, but a string for PyYAML, which asks for `1.0e-2`.
# 010 would be 8 in YAML 1.1, and 1:30 would be 90.
_OCTAL_OR_SEXAGESIMAL = re.compile(r"[-+]?(?:0[0-9_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)$")
_EXPONENT_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
# Far more than any recipe has: larger ones are another file, or a few lines whose aliases multiply each other.
_MOST_BYTES, _MOST_VALUES = 1_000_000, 100_000
# Explanations are aligned up to this column; a longer line has its own two spaces after it.
_COMMENT_COLUMN = 60


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe.

    Attributes:
        name: The packaged name, or the stem of the user's file.
        values: The keys that files and flags set, with their values.
        origins: For each key of `values` where it was set: `recipes/_base_/models/resnet50.yaml` for a packaged file,
            the path as the user gave it, or a flag such as `--learning_rate`. A mapping that was merged from several
            sources names them all, separated by a comma.
        layers: For each key of `values` the number of the file, or of the flags, that set it last: a higher one stands
            over a lower one.
    """

    name: str
    values: dict[str, Any]
    origins: dict[str, str]
    layers: dict[str, int] = field(default_factory=dict, compare=False)


def load_recipe(name_or_path: str | os.PathLike[str], known_keys: Collection[str]) -> Recipe:
    """Load a recipe and resolve its bases.

    Args:
        name_or_path: A path or, where there is no such file, the name of a packaged recipe.
        known_keys: The keys that it may have.

    Raises:
        UserError: For a recipe or base that does not exist, a circle of bases, a file that is not a mapping in valid
            YAML, a key that stands twice, and a key that is not in `known_keys`.
    """
    path = _find(os.fspath(name_or_path), Path(), "recipe")
    names = {file: name for name, file in _packaged_files().items()}
    recipe = Recipe(name=names.get(path.resolve(), path.stem), values={}, origins={})
    for origin, layer in _layers(path, known_keys, chain=()):
        recipe = override(recipe, layer, origin)
    return recipe


def read_mapping(path: Path, known_keys: Collection[str]) -> dict[str, Any]:
    """Return what stands in a YAML file whose keys are those of a recipe, and whose values mean something else.

    Raises:
        UserError: For a file that is not a mapping in valid YAML, a key that stands twice or is not in `known_keys`,
            and for bases.
    """
    bases, mapping = _read(path, os.path.normpath(path), known_keys)
    if bases:
        raise UserError(f"{path} has a {BASE_KEY}, which only a recipe has; leave it out.")
    return mapping


def override(recipe: Recipe, values: Mapping[str, Any], origin: str | Callable[[str], str] = "--{key}") -> Recipe:
    """Return a copy of a recipe with `values` over its own.

    Args:
        recipe: The recipe.
        values: Keys with their values. None takes a key back to its default: it is no longer in the recipe.
        origin: Where the values come from, with `{key}` for the key's name, or a function of that name. By default
            they are flags.
    """
    origins = dict(recipe.origins)
    for key, value in values.items():
        source = origin.replace("{key}", key) if isinstance(origin, str) else origin(key)
        sources = [source]
        if isinstance(value, Mapping) and isinstance(recipe.values.get(key), Mapping):
            sources = [*(earlier for earlier in origins[key].split(", ") if earlier != source), source]
        origins[key] = ", ".join(sources)
    merged = _merge(recipe.values, copy.deepcopy(dict(values)))
    layers = recipe.layers | dict.fromkeys(values, max(recipe.layers.values(), default=0) + 1)
    return Recipe(
        recipe.name, merged, {key: origins[key] for key in merged}, {key: layers.get(key, 0) for key in merged}
    )


def read_value(text: str, origin: str) -> Any:
    """Return the value that `text`, such as a flag's, would have in a recipe; `origin` begins the error."""
    node, value = _parse(text, origin)
    return text if node is None else value


def flag_text(value: Any) -> str:
    """Return what `read_value` reads back as a recipe's value: a word as it is, all else in YAML's short form."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def packaged_recipes() -> dict[str, str]:
    """Return each packaged recipe's name with the one line that describes it; bases (`_base_/...`) come last."""
    return {
        name: path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
        for name, path in _packaged_files().items()
    }


def to_yaml(recipe: Recipe, explain: bool = False) -> str:
    """Return a resolved recipe as YAML that `load_recipe` reads back to the same values.

    Args:
        recipe: The recipe.
        explain: Say in a comment beside each value where it was set.
    """
    entries = {key: _dump_entry(key, value) for key, value in recipe.values.items()}
    if not entries:
        return "{}\n"
    if explain:
        first_lines = {key: entry.split("\n", 1)[0] for key, entry in entries.items()}
        column = max((len(line) for line in first_lines.values() if len(line) <= _COMMENT_COLUMN), default=0)
        for key, line in first_lines.items():
            entries[key] = f"{line:<{column}}  # {one_line(str(recipe.origins[key]))}{entries[key][len(line) :]}"
    return "".join(entries.values())


@cache
def _packaged_files() -> dict[str, Path]:
    """Return the packaged recipes by name, such as `resnet50_cifar10` or `_base_/models/resnet50`; bases last."""
    names = {
        path.relative_to(RECIPES_FOLDER).with_suffix("").as_posix(): path for path in RECIPES_FOLDER.rglob("*.yaml")
    }
    return {name: names[name] for name in sorted(names, key=lambda name: ("/" in name, name))}


def _find(name: str, folder: Path, what: str) -> Path:
    """Return the file `name` relative to `folder`, else the packaged recipe of that name; `what` begins the error."""
    path, packaged = folder / Path(name).expanduser(), _packaged_files()
    if path.is_file():
        return path
    if name.removesuffix(".yaml") in packaged:
        return packaged[name.removesuffix(".yaml")]
    beside = [file.name for file in folder.glob("*.y*ml") if file.is_file()]
    raise UserError(
        f'{what} "{name}" is neither a file nor a packaged recipe.{did_you_mean(name, [*packaged, *beside])}'
        " To list the packaged ones: hf-finetune recipes"
    )


def _origin(path: Path) -> str:
    """Return how a file is called to the user: `recipes/...` if it is packaged, else its path as it was given."""
    if path.resolve().is_relative_to(RECIPES_FOLDER):
        return path.resolve().relative_to(RECIPES_FOLDER.parent).as_posix()
    return os.path.normpath(path)


def _layers(path: Path, known_keys: Collection[str], chain: tuple[Path, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Return (origin, mapping) of all bases and the file itself, the file last; `chain` holds the files that led here.

    The mappings are not merged on the way, because a `null` must reach those before it.
    """
    origin = _origin(path)
    if path.resolve() in [asking.resolve() for asking in chain]:
        circle = " -> ".join([*(_origin(asking) for asking in chain), origin])
        raise UserError(f"{origin}: its bases go in a circle ({circle}); take one {BASE_KEY} out.")
    bases, mapping = _read(path, origin, known_keys)
    layers = []
    for base in bases:
        base_path = _find(base, path.parent, f"{origin}: base")
        layers += _layers(base_path, known_keys, (*chain, path))
    return [*layers, (origin, mapping)]


def _read(path: Path, origin: str, known_keys: Collection[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the names of one file's bases and its own mapping, with its keys checked."""
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise UserError(f"{origin} has {size:,} bytes; a recipe is a short YAML file, of {_MOST_BYTES:,} at most.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{origin} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{origin} is not a text in UTF-8; a recipe is a YAML file.") from error
    node, content = _parse(text, origin)
    if content is None:
        raise UserError(f"{origin} is empty; use lines such as learning_rate: 0.01, or a {BASE_KEY}.")
    if not isinstance(content, dict) or node is None:
        kind = type(content).__name__
        raise UserError(f"{origin} holds a {kind}; a recipe is a mapping, with lines such as learning_rate: 0.01")
    for key_node, _ in node.value:
        key = key_node.value
        if key != BASE_KEY and key not in known_keys:
            raise UserError(f"{origin}, line {key_node.start_mark.line + 1}: {_unknown_key(str(key), known_keys)}")
    stated = content.pop(BASE_KEY, None)
    bases = [] if stated is None else [stated] if isinstance(stated, str) else stated
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(
            f"{origin}: {BASE_KEY} is {bases!r}; use one name or a list, such as [{BASE_KEY}/models/resnet50]."
        )
    return bases, content


def _unknown_key(key: str, known_keys: Collection[str]) -> str:
    if key in WITHHELD:
        return f'there is no key "{key}": {WITHHELD[key]}.'
    if advice := answer(key, known_keys, flag=""):
        return f'there is no key "{key}"; {advice}.'
    advice = did_you_mean(key, known_keys) or " The keys are the flags of: hf-finetune train --help-all"
    return f'unknown key "{key}".{advice}'


def _parse(text: str, origin: str) -> tuple[yaml.Node | None, Any]:
    """Return the root node of a YAML text, None if it is empty, and what it means."""
    try:
        loader = _RecipeLoader(text)
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # All but the first: values that a tag such as !!int does not fit, and nesting without end.
        mark = getattr(error, "problem_mark", None)
        place = f"{origin}, line {mark.line + 1}" if mark and "\n" in text else origin
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{place}: this is not valid YAML: {problem}.") from error


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return `upper` over `lower`: mappings key by key, anything else whole, None takes the key out."""
    merged = dict(lower)
    for key, value in upper.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


class _RecipeLoader(yaml.SafeLoader):
    """Reads YAML without the surprises of version 1.1.

    `1e-2` is a number; `no` (as in `eval_strategy: no`), `2024-01-01`, `010` and `1:30` are texts. A key
    that stands twice is an error, where PyYAML would silently take the second value.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        initial: [
            *([(_TEXT_TAG, _OCTAL_OR_SEXAGESIMAL)] if str(initial) in "-+0123456789" else []),
            *(pair for pair in pairs if pair[0] not in (_BOOL_TAG, _TIMESTAMP_TAG)),
        ]
        for initial, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._counts: dict[yaml.Node, int] = {}  # values in each node that is complete, with those of its aliases

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        node = cast(yaml.Node, super().compose_node(parent, index))
        if isinstance(event, yaml.AliasEvent) and node not in self._counts:
            problem = f"*{event.anchor} stands within what it stands for"
            raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        self._counts[node] = 1 + sum(self._counts[part] for part in parts)
        if self._counts[node] > _MOST_VALUES:
            problem = f"it has more than {_MOST_VALUES:,} values, those of its aliases counted"
            raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
        return node

    # Composed nodes are looked at, not constructed mappings: a `<<` merge may rightly bring a key a second time.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first_lines: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            line = key_node.start_mark.line + 1
            if key_node.value in first_lines:
                problem = f'the key "{key_node.value}" stands twice, first in line {first_lines[key_node.value]}'
                raise yaml.composer.ComposerError(None, None, problem, key_node.start_mark)
            first_lines[key_node.value] = line
        return node


class _RecipeDumper(yaml.SafeDumper):
    """Writes YAML that version 1.1 and `_RecipeLoader` read alike: the texts "no" and "1e-2" are quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # A text of several lines is written on one, so that an explanation can stand beside it.
    style = '"' if len(text.splitlines()) > 1 or text.endswith("\n") else None
    return dumper.represent_scalar(_TEXT_TAG, text, style=style)


_RecipeLoader.add_implicit_resolver(_BOOL_TAG, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_RecipeLoader.add_implicit_resolver(_FLOAT_TAG, _EXPONENT_FLOAT, list("-+.0123456789"))
_RecipeDumper.add_implicit_resolver(_FLOAT_TAG, _EXPONENT_FLOAT, list("-+.0123456789"))
_RecipeDumper.add_representer(str, _represent_text)


def _dump_entry(key: str, value: Any) -> str:
    """Return `key: value` as YAML, innermost lists and mappings in `[...]` and `{...}`, no line ever folded."""
    node = _RecipeDumper(io.StringIO(), default_flow_style=None, sort_keys=False).represent_data({key: value})
    node.flow_style = False  # type: ignore[attr-defined]  # every collection has it
    return yaml.serialize(node, Dumper=_RecipeDumper, allow_unicode=True, width=math.inf)
