"""What the fuzzing tests share: generated inputs, and files that are damaged.

The inputs are the same at every run of the same selection of tests on the same sources: Hypothesis draws on constants
that it finds in the project's modules that are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_finetune.errors import UserError

# How many inputs a test tries: few by `make test`, thousands by `make test-faults`.
EXAMPLES = [60, pytest.param(4000, marks=pytest.mark.faults)]


def fuzz(check: Callable[[Any], object], inputs: st.SearchStrategy[Any], examples: int) -> None:
    """Call `check` with `examples` of `inputs`; any error but `UserError` fails with the smallest input."""

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(inputs)
    def run(value: Any) -> None:
        try:
            check(value)
        except UserError as error:
            message = str(error)
            assert message and "\n" not in message and "Traceback" not in message, message

    run()


@st.composite
def damaged(draw: st.DrawFn, files: st.SearchStrategy[bytes]) -> bytes:
    """Draw a file and damage it: bytes changed, taken out, put in or repeated, and the end cut off."""
    content = bytearray(draw(files))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        # The first bytes say what the rest is, and are hit most often.
        start = min(start, draw(st.sampled_from([32, 256, len(content)])))
        length = draw(st.integers(0, 8))
        damage = draw(st.sampled_from(["change", "remove", "insert", "repeat", "zero", "full"]))
        if damage == "change":
            content[start : start + length] = draw(st.binary(min_size=length, max_size=length))
        elif damage == "remove":
            del content[start : start + length]
        elif damage == "insert":
            content[start:start] = draw(st.binary(max_size=8))
        elif damage == "repeat":
            content[start:start] = content[start : start + 16 * length]
        else:
            content[start : start + length] = (b"\x00" if damage == "zero" else b"\xff") * length
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)
