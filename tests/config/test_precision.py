"""What `precision`, `bf16` and `fp16` ask for together, with `accelerate launch`, and what Accelerate is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_finetune.config.precision import stated_precision
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError


@pytest.mark.parametrize(
    ("precision", "bf16", "fp16", "asked"),
    [
        ("auto", None, None, "auto"),
        ("auto", True, None, "bf16"),
        ("auto", None, True, "fp16"),
        ("auto", False, None, "float32"),
        ("auto", None, False, "auto"),  # which never chooses it
        ("auto", False, True, "fp16"),
        ("bf16", True, False, "bf16"),
        ("fp16", False, None, "fp16"),
        ("float32", False, False, "float32"),
    ],
)
def test_the_keys_are_one_answer(precision: str, bf16: bool | None, fp16: bool | None, asked: str) -> None:
    assert stated_precision(precision, bf16, fp16) == asked


@pytest.mark.parametrize(
    ("precision", "bf16", "fp16", "message"),
    [
        ("auto", True, True, "bf16 and fp16 are both true; use --precision bf16, or --precision fp16."),
        ("float32", True, None, "precision is float32 and bf16 is true; leave bf16 out."),
        ("bf16", False, None, "precision is bf16 and bf16 is false; leave bf16 out."),
        ("bf16", None, True, "precision is bf16 and fp16 is true; leave fp16 out."),
    ],
)
def test_contradictions_are_one_line(precision: str, bf16: bool | None, fp16: bool | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        stated_precision(precision, bf16, fp16)
    assert str(caught.value) == message


def arguments(folder: Path, **settings: Any) -> FinetuneArguments:
    return FinetuneArguments(output_dir=str(folder), use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("settings", "launched", "precision"),
    [
        ({}, "no", "auto"),
        ({}, "bf16", "bf16"),
        ({"precision": "float32"}, "bf16", "float32"),
        ({"bf16": True}, "no", "bf16"),
    ],
)
def test_accelerate_is_not_told_what_it_would_evaluate_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], launched: str, precision: str
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    args = arguments(tmp_path, **settings)
    assert (args.precision, args.mixed_precision) == (precision, "no")
    assert args.bf16 is (precision == "bf16") and args.fp16 is False


def test_divided_weights_are_left_to_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(tmp_path, precision="bf16")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    args.use_precision("bf16")
    assert args.mixed_precision == "bf16"
    args.use_precision("float32")
    assert args.mixed_precision == "no"


def test_fp16_on_a_cpu_is_refused_whoever_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UserError, match="^fp16 needs a GPU, and this run is on the CPU; use --precision bf16"):
        arguments(tmp_path)
