"""Imports of Transformers that image classification has no use for, put off until something uses them.

While a block imports the Trainer, `peft` and `scipy.optimize` are stood in for. A class or function of theirs that is
imported in the block is a name for the real one, which is loaded when it is called or looked into. After the block, an
import is a real import.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

# What Transformers takes of them at its import: classes to compare models with, and a function for object detection.
LATE = ("peft", "scipy.optimize")


class _LateModule(ModuleType):
    """Stands in for a module in `sys.modules`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _LateName(name, (), {"__module__": self.__name__})


class _LateName(type):
    """The class of names that stand for a class or a function of a late module."""

    def __instancecheck__(cls, instance: object) -> bool:
        module = sys.modules.get(cls.__module__)
        if module is None or isinstance(module, _LateModule):
            return False  # nothing is an instance of a class that has not been loaded
        return isinstance(instance, getattr(module, cls.__name__))

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._real(), name)

    def _real(cls) -> Any:
        if isinstance(sys.modules.get(cls.__module__), _LateModule):
            del sys.modules[cls.__module__]
        return getattr(import_module(cls.__module__), cls.__name__)


@contextmanager
def late_imports() -> Iterator[None]:
    """Import Transformers in the block without what image classification has no use for."""
    import transformers
    from transformers.utils import import_utils

    # The files of all networks are read for their names once here, and again for `transformers.models`: the cache is
    # too small for them, but what it holds last is the whole.
    models = Path(str(transformers.__file__)).parent / "models"
    structure_of: Any = import_utils.create_import_structure_from_path

    def known_structure_of(path: str | Path) -> Any:
        return structure_of(models if Path(path) == models / "__init__.py" else path)

    vars(import_utils)["create_import_structure_from_path"] = known_structure_of
    installed = [name for name in LATE if find_spec(name.partition(".")[0]) is not None]
    standing = {name: _LateModule(name) for name in installed if name not in sys.modules}
    for name, module in standing.items():
        module.__spec__ = find_spec(name)
        sys.modules[name] = module
    try:
        yield
    finally:
        vars(import_utils)["create_import_structure_from_path"] = structure_of
        for name, module in standing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
