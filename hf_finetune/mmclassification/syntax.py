"""Reads a config file and its bases into one nested dict, from the syntax tree and without running them.

Both forms of MMEngine are read: `_base_ = [...]` with merging, `_delete_` and `{{_base_.x}}`, and the newer
`with read_base(): from ..x import *`, where an assignment replaces and `x.merge(...)` merges.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.mmclassification.expressions import Evaluator
from hf_finetune.mmclassification.unreadable import Unreadable, UnreadableError

_DELETE = "_delete_"
_TEMPLATE = re.compile(r"\{\{\s*(file\w+)\s*\}\}")
_ENVIRONMENT = re.compile(r"\{\{\s*\$(\w+):([^}]*?)\s*\}\}")


@dataclass
class ConfigFile:
    """A config with its bases merged in.

    Attributes:
        file: Its name, for messages.
        values: Nested literals by the names that the config assigns.
        notes: One line on each statement that was not read.
        used: The names that expressions look up.
    """

    file: str
    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


def read_config(path: str | Path) -> ConfigFile:
    """Read a config and its bases.

    Raises:
        UserError: A file does not exist or is not Python, or the bases contain each other.
    """
    try:
        return _read(Path(path).expanduser(), str(path), chain=())
    except RecursionError as error:
        raise UserError(f"{path} nests its expressions too deeply to be read; simplify them.") from error


def _read(path: Path, name: str, chain: tuple[Path, ...]) -> ConfigFile:
    if path.resolve() in [asking.resolve() for asking in chain]:
        circle = " -> ".join(asking.name for asking in (*chain, path))
        raise UserError(f"{name}: its bases contain each other ({circle}); remove one _base_.")
    tree = _parse(path, name, chain[-1] if chain else None)
    config = ConfigFile(name, {})
    bases: dict[str, Any] = {}
    for base in _base_names(tree, name):
        below = _read(_base_path(base, path, name), str(_base_path(base, path, name)), (*chain, path))
        doubled = sorted(key for key in bases.keys() & below.values.keys() if bases[key] != below.values[key])
        if doubled:
            raise UserError(f"{name}: two of its bases set {doubled[0]}; keep it in one, as MMEngine asks.")
        bases |= below.values
        config.notes += below.notes
        config.used |= below.used
    _Reader(path, config, bases).read(tree)
    return config


def _parse(path: Path, name: str, asking: Path | None) -> ast.Module:
    if path.is_dir():
        raise UserError(f"{name} is a folder; use one config, such as {name.rstrip('/')}/NAME.py")
    if not path.is_file():
        stated = f", which {asking} names as a base" if asking else ""
        near = did_you_mean(path.name, [file.name for file in path.parent.glob("*.py")])
        raise UserError(f"there is no config {name}{stated}.{near} Use the path of a .py file.")
    if path.suffix != ".py":
        raise UserError(
            f"{name} is not a .py file; import-config reads the configs of MMClassification and MMPretrain."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        # A set inside a set is how `{{_base_.x}}` parses; names of the file are put in as texts.
        return ast.parse(_TEMPLATE.sub(lambda match: _file_word(match[1], path), text), filename=name)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not a text in UTF-8; a config is a Python file.") from error
    except SyntaxError as error:
        raise UserError(f"{name}, line {error.lineno}: this is not valid Python: {error.msg}.") from error
    except (MemoryError, RecursionError, ValueError) as error:
        raise UserError(f"{name} cannot be parsed as Python ({error or type(error).__name__}).") from error


def _file_word(word: str, path: Path) -> str:
    words = {
        "fileDirname": str(path.parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    return words.get(word, f"{{{{ {word} }}}}").replace("\\", "/")


def _base_path(base: str, path: Path, name: str) -> Path:
    if "::" in base:
        raise UserError(f'{name}: its base "{base}" is a file of another package; copy that file here and name it.')
    return path.parent / base


def _base_names(tree: ast.Module, name: str) -> list[str]:
    """Return the bases that `_base_` or `with read_base()` name, as paths relative to the file."""
    names: list[Any] = []
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and _is_name(statement.targets[0], "_base_"):
            try:
                stated = ast.literal_eval(statement.value)
            except ValueError:
                stated = None
            names += [stated] if isinstance(stated, str) else list(stated or [None])
        for imported in _read_base_imports(statement):
            names.append("../" * (imported.level - 1) + (imported.module or "").replace(".", "/") + ".py")
    if not all(isinstance(entry, str) for entry in names):
        raise UserError(f"{name}: its _base_ is not a path or a list of paths; use texts.")
    return names


def _read_base_imports(statement: ast.stmt) -> list[ast.ImportFrom]:
    if not isinstance(statement, ast.With) or "read_base" not in ast.unparse(statement.items[0].context_expr):
        return []
    return [inner for inner in statement.body if isinstance(inner, ast.ImportFrom)]


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


class _Reader:
    """Reads one file's statements in order and writes its values, merged over its bases, to `config`."""

    def __init__(self, path: Path, config: ConfigFile, bases: dict[str, Any]) -> None:
        self.config, self.bases = config, bases
        self.imported: set[str] = set()
        self.evaluator = Evaluator(config.file, {"__name__": path.stem}, bases, config.used)
        self.names = self.evaluator.names

    def read(self, tree: ast.Module) -> None:
        """Read all statements. What cannot be read becomes a note."""
        lazy = any(_read_base_imports(statement) for statement in tree.body)
        if lazy:
            self.names.update(copy.deepcopy(self.bases))
        for statement in tree.body:
            try:
                self._take(statement)
            except UnreadableError as error:
                self._note(statement, f"`{error.value.source}` {error.value.reason}")
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                self._note(statement, f"left out ({type(error).__name__}: {error})")
        hidden = {"__name__", "_base_", "_deprecation_", *self.imported}
        own = {key: value for key, value in self.names.items() if key not in hidden}
        own = _fill_in(own, self.config.notes)
        merged = own if lazy else _merge(own, self.bases, self.config.file)
        self.config.values = {key: value for key, value in merged.items() if key != "_deprecation_"}

    def _note(self, statement: ast.stmt, reason: str) -> None:
        self.config.notes.append(f"{self.config.file}, line {statement.lineno}: {reason}")

    def _take(self, statement: ast.stmt) -> None:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                name = alias.asname or alias.name
                if isinstance(statement, ast.ImportFrom) and name != "*":
                    # In the newer form types are classes, `type=ResNet`, of which only the name is needed.
                    self.names[name] = alias.name
                    self.imported.add(name)
        elif isinstance(statement, ast.Assign):
            if _is_name(statement.targets[0], "_base_"):
                return
            value = self.evaluator.value(statement.value)
            for target in statement.targets:
                self.evaluator.assign(target, value)
                self.imported -= {target.id} if isinstance(target, ast.Name) else set()
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self.evaluator.assign(statement.target, self.evaluator.value(statement.value))
        elif isinstance(statement, ast.AugAssign):
            computed = ast.BinOp(_as_read(statement.target), statement.op, statement.value)
            self.evaluator.assign(
                statement.target,
                self.evaluator.value(ast.fix_missing_locations(ast.copy_location(computed, statement))),
            )
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            self._change(statement.value, statement)
        elif isinstance(statement, (ast.Expr, ast.Pass)) or _read_base_imports(statement):
            pass
        else:
            self._note(statement, f"`{ast.unparse(statement).splitlines()[0][:60]}` is code, which is not run")

    def _change(self, call: ast.Call, statement: ast.stmt) -> None:
        """Carry out `x.update(...)`, `x.merge(...)`, `x.append(...)` and the like on a dict or list of the file."""
        changes = ("update", "merge", "append", "extend", "insert", "pop")
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in changes:
            self._note(statement, f"`{ast.unparse(statement)[:60]}` is code, which is not run")
            return
        method, owner = call.func.attr, self.evaluator.container(call.func.value)
        arguments = [self.evaluator.value(argument) for argument in call.args]
        keywords = {keyword.arg: self.evaluator.value(keyword.value) for keyword in call.keywords if keyword.arg}
        for value in arguments:
            if isinstance(value, Unreadable):
                raise UnreadableError(value)
        if method == "merge":
            merged = _merge(arguments[0], owner, self.config.file)
            owner.clear()
            owner.update(merged)
        elif hasattr(owner, method):
            getattr(owner, method)(*arguments, **keywords)


def _as_read(target: ast.Name | ast.Attribute | ast.Subscript) -> ast.expr:
    """Return the target of an assignment as the expression that reads it."""
    read = copy.deepcopy(target)
    read.ctx = ast.Load()
    return read


def _fill_in(value: Any, notes: list[str]) -> Any:
    """Return a value with the default in place of `{{$VARIABLE:default}}`; environment variables are not read."""
    if isinstance(value, dict):
        return {key: _fill_in(item, notes) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_fill_in(item, notes) for item in value)
    if isinstance(value, str) and _ENVIRONMENT.search(value):
        notes.append(f"{value}: the environment is not read; its default was taken")
        return _ENVIRONMENT.sub(lambda match: match[2], value)
    return value


def _merge(upper: Mapping[str, Any], lower: Mapping[str, Any], file: str, path: str = "") -> dict[str, Any]:
    """Return `upper` merged over `lower` as MMEngine does: dicts key by key unless `_delete_` is set, others whole."""
    merged = copy.deepcopy(dict(lower))
    for key, value in upper.items():
        place = f"{path}{key}"
        if not isinstance(value, dict):
            merged[key] = value
            continue
        below = merged.get(key)
        if key in merged and not value.get(_DELETE, False):
            if not isinstance(below, dict):
                raise UserError(
                    f"{file}: {place} is a dict here and a {type(below).__name__} in its base; add {_DELETE}=True to it"
                    " to replace the base's."
                )
            merged[key] = _merge(value, below, file, f"{place}.")
        else:
            merged[key] = _merge({name: item for name, item in value.items() if name != _DELETE}, {}, file, f"{place}.")
    return merged
