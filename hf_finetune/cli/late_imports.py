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
    installed = [name for name in LATE if find_spec(name.partition(".")[0]) is not None]
    standing = {name: _LateModule(name) for name in installed if name not in sys.modules}
    for name, module in standing.items():
        module.__spec__ = find_spec(name)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, module in standing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
