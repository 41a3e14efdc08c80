"""The fields of `transformers.TrainingArguments`, read from the source of the installed version.

Importing the class takes seconds, because it imports torch. A key, its type, its default and its choices stand in the
source as they are, so that a wrong flag or value is told at once. A test compares all of them with the class itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import Field, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_TYPES: dict[str, Any] = {"bool": bool, "dict": dict, "float": float, "int": int, "list": list, "str": str, "Any": Any}
# What stands in the source as another name or an expression.
_VALUES = {
    "list": list,
    "trainer_log_levels.keys()": ("detail", "debug", "info", "warning", "error", "critical", "passive"),
}


@cache
def stock_fields() -> dict[str, Field[Any]]:
    """Return the fields of `transformers.TrainingArguments` by name, in its order, each with its type as a text."""
    return {name: _field(name, statement) for name, statement in _annotated().items()}


@cache
def stock_types() -> dict[str, tuple[Any, ...]]:
    """Return the types that each field takes, None among them. A member of an enumeration is a `str`."""
    return {name: tuple(_alternatives(statement.annotation)) for name, statement in _annotated().items()}


@cache
def members(enumeration: str) -> tuple[str, ...]:
    """Return the values of one of Transformers' enumerations, such as "OptimizerNames"."""
    body = _class(enumeration, "training_args.py" if enumeration == "OptimizerNames" else "trainer_utils.py").body
    values = (statement.value for statement in body if isinstance(statement, ast.Assign))
    return tuple(str(value.value) for value in values if isinstance(value, ast.Constant))


def _annotated() -> dict[str, ast.AnnAssign]:
    return {
        statement.target.id: statement
        for statement in _class("TrainingArguments", "training_args.py").body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def _class(name: str, file: str) -> ast.ClassDef:
    return next(node for node in _tree(file).body if isinstance(node, ast.ClassDef) and node.name == name)


@cache
def _tree(file: str) -> ast.Module:
    spec = find_spec("transformers")  # which imports nothing
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
    return ast.parse(Path(spec.origin).with_name(file).read_text(encoding="utf-8"))


def _field(name: str, statement: ast.AnnAssign) -> Field[Any]:
    stated = {} if not isinstance(statement.value, ast.Call) else _mapping(statement.value.keywords)
    item: Field[Any] = field(
        **{key: stated[key] for key in ("default", "default_factory", "metadata") if key in stated}
    )
    item.name, item.type = name, ast.unparse(statement.annotation)
    return item


def _mapping(keywords: list[ast.keyword]) -> dict[str, Any]:
    """Return the arguments of `field` whose values the source states."""
    found: dict[str, Any] = {}
    for keyword in keywords:
        if isinstance(keyword.value, ast.Dict):
            pairs = zip(keyword.value.keys, keyword.value.values, strict=True)
            inner = [ast.keyword(arg=ast.literal_eval(key), value=value) for key, value in pairs if key is not None]
            found[str(keyword.arg)] = _mapping(inner)
        elif ast.unparse(keyword.value) in _VALUES:
            found[str(keyword.arg)] = _VALUES[ast.unparse(keyword.value)]
        else:
            try:
                found[str(keyword.arg)] = ast.literal_eval(keyword.value)
            except ValueError:  # depends on what is installed; such as the default of `optim`, which this package sets
                continue
    return found


def _alternatives(annotation: ast.expr) -> Iterator[Any]:
    """Yield the types of an annotation such as `int | None`."""
    if isinstance(annotation, ast.BinOp):
        yield from _alternatives(annotation.left)
        yield from _alternatives(annotation.right)
    elif isinstance(annotation, ast.Subscript):
        outer = ast.unparse(annotation.value)
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if outer in ("list", "dict"):
            types = tuple(_TYPES.get(ast.unparse(item), Any) for item in inner)
            yield _TYPES[outer][types if len(types) > 1 else types[0]]
    elif isinstance(annotation, ast.Constant):
        yield type(None)
    else:
        yield _TYPES.get(ast.unparse(annotation), str)
