"""Evaluates Python expressions from their syntax trees, without running any code of the file.

Literals, names, `dict(...)`, arithmetic, f-strings, slices, comprehensions and a few pure functions are supported.
Anything else becomes an `Unreadable`, which is an error only where the value is needed.
"""

from __future__ import annotations

import ast
import copy
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hf_finetune.mmclassification.unreadable import Unreadable, UnreadableError

_MOST_ITEMS = 100_000  # of a sequence, a text or a loop; no real config has more
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_CONVERSIONS: dict[str, Callable[[Any], str]] = {"r": repr, "s": str, "a": ascii}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "dict": dict,
    "list": list,
    "tuple": tuple,
    "set": set,
    "range": range,
    "round": round,
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "len": len,
    "min": min,
    "max": max,
    "sum": sum,
    "abs": abs,
    "sorted": sorted,
    "copy.deepcopy": copy.deepcopy,
    "deepcopy": copy.deepcopy,
    "copy.copy": copy.copy,
}
_METHODS: dict[type, set[str]] = {str: {"format", "lower", "upper"}, dict: {"copy", "get"}, list: {"copy"}}
_VALUE_ERRORS = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def _is_huge(value: Any) -> bool:
    """Whether a value and all that is inside it have more than `_MOST_ITEMS` items."""
    waiting, items = [value], 0
    while waiting and items <= _MOST_ITEMS:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        items += len(value) if isinstance(value, (str, dict, list, tuple, set, range)) else 0
    return items > _MOST_ITEMS


class Evaluator:
    """Evaluates the expressions of one file.

    Args:
        file: The file's name, for messages.
        names: The names that the file has assigned so far.
        bases: The merged values of the file's bases, which `_base_.x` and `{{_base_.x}}` refer to.
        used: Every name that is looked up is added to it.
    """

    def __init__(self, file: str, names: dict[str, Any], bases: dict[str, Any], used: set[str]) -> None:
        self.file, self.names, self.bases, self.used = file, names, bases, used

    def value(self, node: ast.expr) -> Any:
        """Return the expression's value. What cannot be evaluated is an `Unreadable`, in its place or inside it."""
        try:
            value = self._evaluate(node)
            if _is_huge(value):
                raise self._refuse(node, f"has more than {_MOST_ITEMS:,} items")
            return value
        except UnreadableError as error:
            return error.value

    def _refuse(self, node: ast.AST, reason: str) -> UnreadableError:
        source = " ".join(ast.unparse(node).split())
        source = source if len(source) <= 60 else f"{source[:57]}..."
        return UnreadableError(Unreadable(self.file, getattr(node, "lineno", 1), source, reason))

    def _evaluate(self, node: ast.expr) -> Any:
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            raise self._refuse(node, "is code, which is not run")
        try:
            value = method(node)
        except _VALUE_ERRORS as error:
            raise self._refuse(node, f"cannot be evaluated ({type(error).__name__}: {error})") from error
        return value

    def _known(self, node: ast.expr) -> Any:
        """Return the value of an expression, or raise `UnreadableError`."""
        value = self._evaluate(node)
        if isinstance(value, Unreadable):
            raise UnreadableError(value)
        return value

    def _Constant(self, node: ast.Constant) -> Any:
        return node.value

    def _Name(self, node: ast.Name) -> Any:
        if node.id == "_base_":
            return self.bases
        self.used.add(node.id)
        if node.id not in self.names:
            raise self._refuse(node, "is a name that has no value here")
        return copy.deepcopy(self.names[node.id])  # as MMEngine dumps and parses: a later change reaches no other place

    def _items(self, nodes: list[ast.expr]) -> list[Any]:
        items = []
        for node in nodes:
            if isinstance(node, ast.Starred):
                items += list(self._known(node.value))
            else:
                items.append(self.value(node))
        return items

    def _List(self, node: ast.List) -> list[Any]:
        return self._items(node.elts)

    def _Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self._items(node.elts))

    def _Set(self, node: ast.Set) -> Any:
        inner = node.elts[0]
        if len(node.elts) == 1 and isinstance(inner, ast.Set) and len(inner.elts) == 1:
            return self._known(inner.elts[0])  # {{_base_.x}}, as 0.x writes it
        return set(self._items(node.elts))

    def _Dict(self, node: ast.Dict) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                result.update(self._known(value))
            else:
                result[self._known(key)] = self.value(value)
        return result

    def _Attribute(self, node: ast.Attribute) -> Any:
        owner = self._known(node.value)
        if not isinstance(owner, Mapping):
            raise self._refuse(node, "is code, which is not run")
        self.used.add(node.attr)
        return copy.deepcopy(owner[node.attr])

    def _Subscript(self, node: ast.Subscript) -> Any:
        owner, index = self._known(node.value), self._known(node.slice)
        if not isinstance(owner, (Mapping, str, list, tuple, range)):
            raise self._refuse(node, "is code, which is not run")
        return owner[index]

    def _Slice(self, node: ast.Slice) -> slice:
        return slice(*(part and self._known(part) for part in (node.lower, node.upper, node.step)))

    def _BinOp(self, node: ast.BinOp) -> Any:
        left, right = self._known(node.left), self._known(node.right)
        function = _BINARY.get(type(node.op))
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        too_large = isinstance(node.op, ast.Pow) and not (numbers and abs(left) < 1e6 and abs(right) < 100)
        repeated = isinstance(node.op, ast.Mult) and not numbers
        if repeated:
            sequence, times = (left, right) if isinstance(right, int) else (right, left)
            too_large = not isinstance(times, int) or len(sequence) * times > _MOST_ITEMS
        if function is None or too_large or (isinstance(node.op, ast.Mod) and not numbers):
            raise self._refuse(node, "is no simple arithmetic")
        return function(left, right)

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        function = _UNARY.get(type(node.op))
        if function is None:
            raise self._refuse(node, "is no simple arithmetic")
        return function(self._known(node.operand))

    def _BoolOp(self, node: ast.BoolOp) -> Any:
        value = None
        for part in node.values:
            value = self._known(part)
            if bool(value) is isinstance(node.op, ast.Or):
                break
        return value

    def _Compare(self, node: ast.Compare) -> bool:
        left = self._known(node.left)
        for comparison, part in zip(node.ops, node.comparators, strict=True):
            right = self._known(part)
            if not _COMPARISONS[type(comparison)](left, right):
                return False
            left = right
        return True

    def _IfExp(self, node: ast.IfExp) -> Any:
        return self._evaluate(node.body if self._known(node.test) else node.orelse)

    def _JoinedStr(self, node: ast.JoinedStr) -> str:
        return "".join(str(self._known(part)) for part in node.values)

    def _FormattedValue(self, node: ast.FormattedValue) -> str:
        value = self._known(node.value)
        if node.conversion != -1:
            value = _CONVERSIONS[chr(node.conversion)](value)
        specification = "" if node.format_spec is None else self._known(node.format_spec)
        self._check_template(node, specification)
        return format(value, specification)

    def _check_template(self, node: ast.expr, template: str) -> None:
        if re.search(r"\d{4}|\{[^{}]*\{", template):  # a width that would fill the memory
            raise self._refuse(node, "is a text of a width that makes no sense")

    def _Call(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        arguments = self._items(node.args)
        keywords: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                keywords.update(self._known(keyword.value))
            else:
                keywords[keyword.arg] = self.value(keyword.value)
        if name == "dict":
            return dict(*arguments, **keywords)
        for value in (*arguments, *keywords.values()):
            if isinstance(value, Unreadable):
                raise UnreadableError(value)
        if name in _FUNCTIONS and name not in self.names:
            if name == "range" and len(range(*arguments)) > _MOST_ITEMS:
                raise self._refuse(node, f"has more than {_MOST_ITEMS:,} items")
            return _FUNCTIONS[name](*arguments, **keywords)
        if isinstance(node.func, ast.Attribute):
            owner = self._evaluate(node.func.value)
            if node.func.attr in _METHODS.get(type(owner), set()):
                if isinstance(owner, str):
                    self._check_template(node, owner)
                return getattr(owner, node.func.attr)(*arguments, **keywords)
        raise self._refuse(node, "is code, which is not run")

    def _comprehended(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Iterator[Any]:
        if len(node.generators) != 1:
            raise self._refuse(node, "is a loop in a loop, which is not read")
        (generator,) = node.generators
        before = dict(self.names)
        try:
            for item in self._known(generator.iter):
                self.assign(generator.target, item)
                if all(self._known(test) for test in generator.ifs):
                    yield (
                        (self._known(node.key), self._known(node.value))
                        if isinstance(node, ast.DictComp)
                        else self._known(node.elt)
                    )
        finally:
            self.names.clear()
            self.names.update(before)

    def _ListComp(self, node: ast.ListComp) -> list[Any]:
        return list(self._comprehended(node))

    _GeneratorExp = _ListComp

    def _SetComp(self, node: ast.SetComp) -> set[Any]:
        return set(self._comprehended(node))

    def _DictComp(self, node: ast.DictComp) -> dict[Any, Any]:
        return dict(self._comprehended(node))

    def assign(self, target: ast.expr, value: Any) -> None:
        """Assign a value to a name, to several names, or to an item of a dict or list.

        Raises:
            UnreadableError: The target is of another kind or does not exist.
        """
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            for part, item in zip(target.elts, list(value), strict=True):
                self.assign(part, item)
        elif isinstance(target, (ast.Subscript, ast.Attribute)):
            owner = self.container(target.value)
            key = target.attr if isinstance(target, ast.Attribute) else self._known(target.slice)
            try:
                owner[key] = value
            except _VALUE_ERRORS as error:
                raise self._refuse(target, f"cannot be set ({type(error).__name__}: {error})") from error
        else:
            raise self._refuse(target, "cannot be set")

    def container(self, node: ast.expr) -> Any:
        """Return the dict or list that an expression such as `train_pipeline[3]` refers to, itself and not a copy.

        Raises:
            UnreadableError: It is no dict or list of the file.
        """
        if isinstance(node, ast.Name) and node.id == "_base_":
            return self.bases
        if isinstance(node, ast.Name) and isinstance(self.names.get(node.id), (dict, list)):
            return self.names[node.id]
        try:
            if isinstance(node, ast.Subscript):
                return self.container(node.value)[self._known(node.slice)]
            if isinstance(node, ast.Attribute):
                return self.container(node.value)[node.attr]
        except _VALUE_ERRORS as error:
            raise self._refuse(node, f"cannot be evaluated ({type(error).__name__}: {error})") from error
        raise self._refuse(node, "is no dict or list of this file")
