"""Write down when each optimizer step ends, in a program that knows nothing of it.

Python imports a module of this name at its start from PYTHONPATH. It imports nothing of the program's; it waits until
the program itself imports a module with an optimizer, then adds a hook to it. Each step becomes a line of the file in
PEERS_STAMPS: the time of day and the seconds of processor time of the process, both in seconds.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def _stamp(*_: object) -> None:
    line = f"{time.time():.6f} {time.process_time():.6f}\n"
    file = os.open(os.environ["PEERS_STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())  # at once: some programs end without any clean-up
    os.close(file)


def _hook_torch(module: ModuleType) -> None:
    module.register_optimizer_step_post_hook(_stamp)


def _hook_fastai(module: ModuleType) -> None:
    """fastai has an optimizer of its own, which knows no hooks."""
    step = module.Optimizer.step

    def step_and_stamp(self: Any, *words: Any, **named: Any) -> Any:
        result = step(self, *words, **named)
        _stamp()
        return result

    module.Optimizer.step = step_and_stamp


_HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "torch.optim.optimizer": _hook_torch,
    "fastai.optimizer": _hook_fastai,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of the hooks where Python would, and runs the hook after the module."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _HOOKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute, hook = spec.loader.exec_module, _HOOKS[name]

        def execute_and_hook(module: ModuleType) -> None:
            execute(module)
            hook(module)

        spec.loader.exec_module = execute_and_hook  # type: ignore[method-assign]  # of this one loader
        return spec


if "PEERS_STAMPS" in os.environ:
    sys.meta_path.insert(0, _Finder())
