"""Opens a file of `torch.save` as data: tensors and plain values. No code of the file runs."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

_NOT_DATA = (
    pickle.UnpicklingError, ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
_CODE = re.compile(r"[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)|`?([\w.]+)`? was not an allowed global")


class NotDataError(Exception):
    """A file that is not one of `torch.save`, or that holds more than data.

    Attributes:
        code: The Python object in it that may run code, None where the file is none of `torch.save`.
    """

    def __init__(self, code: str | None) -> None:
        super().__init__(
            f"holds a Python object ({code}), which may run code and is not opened"
            if code
            else "is not a file of torch.save"
        )
        self.code = code


class Replaced:
    """Takes the place of an object that is not data."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def open_as_data(path: Path, replaced: Iterable[str], mmap: bool = False) -> Any:
    """Open a file of `torch.save`, its tensors on the CPU.

    Args:
        path: The file.
        replaced: The names of objects that may stand in it; each becomes a `Replaced`.
        mmap: Whether tensors are read when they are used; the file is in the format that torch writes since 1.6.

    Raises:
        OSError: The file cannot be read.
        NotDataError: It is none of `torch.save`, or holds another object.
    """
    allowed = torch.serialization.safe_globals([(Replaced, name) for name in replaced])
    try:
        with allowed, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol, which the user did not choose
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _NOT_DATA as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which a file that is cut short gives
            raise
        code = _CODE.search(str(error))
        raise NotDataError((code[1] or code[2]) if code else None) from error
