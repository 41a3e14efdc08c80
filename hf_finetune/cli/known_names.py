"""The names that Transformers offers, kept in a file.

At each import Transformers reads the source of all its networks, some 1,600 files, for the names in them, which takes a
tenth of the time until a first training step. They stay the same until one of these files changes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from hf_finetune.whole_files import keep_text

_MODULE = "transformers.utils.import_utils"
_FUNCTION = "create_import_structure_from_path"  # of a folder: modules and their names, by what they need

Structure = dict[Any, Any]
StructureOf = Callable[[Any], Structure]


@contextmanager
def known_names() -> Iterator[None]:
    """Import Transformers in the block with the names from the file, which the first time writes."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if (module := sys.modules.get(_MODULE)) is not None:
            function = getattr(module, _FUNCTION)
            setattr(module, _FUNCTION, getattr(function, "stock", function))


class _Finder(MetaPathFinder):
    """Finds the module that reads the names, and no other."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _MODULE else None
        if spec is None or spec.origin is None:
            return None
        spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        models = Path(self.path).parents[1] / "models"
        setattr(module, _FUNCTION, KnownStructure(getattr(module, _FUNCTION), models, _cache()))


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets"), "hf_finetune")


class KnownStructure:
    """Does as the function of Transformers that reads the names in a folder, and keeps those of all networks.

    Args:
        stock: The function.
        models: The folder of all networks, which it is asked for as such and by its `__init__.py`.
        cache: The folder of the file.
    """

    def __init__(self, stock: StructureOf, models: Path, cache: Path) -> None:
        self.stock, self._models, self._cache = stock, models, cache

    def __call__(self, path: str | Path) -> Structure:
        if Path(path) not in (self._models, self._models / "__init__.py"):
            return self.stock(path)
        return self._known

    @cached_property
    def _known(self) -> Structure:
        key = sha256(repr(sorted(_stamps(self._models))).encode()).hexdigest()
        file = self._cache / f"transformers-{key[:32]}.json"
        with suppress(OSError, ValueError, TypeError, AttributeError):  # it is not there, or damaged
            return _decoded(json.loads(file.read_text(encoding="utf-8")))
        structure = self.stock(self._models)
        keep_text(file, json.dumps(_encoded(structure)))
        return structure


def _stamps(folder: str | Path) -> Iterator[tuple[str, int]]:
    """Yield the path of each file below a folder, and when it was changed, in nanoseconds."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield entry.path, entry.stat(follow_symlinks=False).st_mtime_ns  # a link may lead nowhere
            elif entry.name != "__pycache__":
                yield from _stamps(entry.path)


def _encoded(structure: Mapping[Any, Any]) -> list[Any]:
    """Return a structure with lists for its sets: folders by name, files by what they need."""
    entries: list[Any] = []
    for key, value in structure.items():
        if isinstance(key, str):
            entries.append([key, _encoded(value)])
        else:
            entries.append([sorted(key), {module: sorted(names) for module, names in value.items()}])
    return entries


def _decoded(entries: list[Any]) -> Structure:
    structure: Structure = {}
    for key, value in entries:
        if isinstance(key, str):
            structure[key] = _decoded(value)
        else:
            structure[frozenset(key)] = {module: set(names) for module, names in value.items()}
    return structure
