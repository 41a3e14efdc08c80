"""Code that is written for a GPU, run on fake CUDA tensors on a machine without one.

A fake tensor has a shape, a dtype and a device and no values. Operations on fake tensors raise an error where they mix
devices, and here they also note where the CPU would wait for the GPU and where data would be copied between them.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainingArguments

_COPIES = ("_to_copy", "copy_")
_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "is_nonzero", "equal.default")


class Crossings(TorchDispatchMode):
    """Notes each copy between devices and each wait of the CPU for the GPU, with the place in the package.

    Attributes:
        seen: One line for each of them.
    """

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and note it where it crosses between the devices."""
        kwargs, name = kwargs or {}, str(func).removeprefix("aten.")
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if name.startswith(_COPIES):
            devices |= {torch.device(kwargs["device"]).type} if kwargs.get("device") is not None else set()
            if len(devices) > 1:
                self._note("copies", name)
        elif name.startswith(_WAITS) and devices == {"cuda"}:
            self._note("waits", name)
        elif name.startswith("index") and any(self._selects(value) for value in args):
            self._note("waits", f"{name} with a mask")
        return func(*args, **kwargs)

    @staticmethod
    def _selects(value: Any) -> bool:
        """Return whether indices hold a boolean mask, whose number of values the CPU has to know."""
        return isinstance(value, (list, tuple)) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in value
        )

    def _note(self, what: str, name: str) -> None:
        own = [frame for frame in traceback.extract_stack() if "/hf_finetune/" in frame.filename]
        place = f"{own[-1].filename.split('/hf_finetune/')[-1]}:{own[-1].lineno}" if own else "?"
        self.seen.append(f"{place} {what} ({name})")


@contextmanager
def fake_cuda() -> Iterator[Crossings]:
    """Make all tensors that are created in the context fake, and fail where the CPU needs a value of the GPU."""
    crossings = Crossings()
    try:
        with FakeTensorMode(allow_non_fake_inputs=False), crossings:
            yield crossings
    except DataDependentOutputException as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/hf_finetune/" in frame.filename]
        place = f"{own[-1].filename.split('/hf_finetune/')[-1]}:{own[-1].lineno}" if own else "?"
        raise AssertionError(f"{place}: the CPU waits for a value of the GPU ({error})") from error


def pretend_several_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let Transformers count `count` GPUs for one process, as on a machine with so many and without a launcher."""
    stock = TrainingArguments.__post_init__

    def counting(self: TrainingArguments) -> None:
        stock(self)
        self._n_gpu = count

    monkeypatch.setattr(TrainingArguments, "__post_init__", counting)
