"""What others wrote is shown as text, and what addresses keep secret is not shown."""

from __future__ import annotations

import json
import pickle

import pytest

from hf_finetune.cli.main import main
from hf_finetune.errors import UserError, listing
from hf_finetune.logs import progress_bar, write_line
from hf_finetune.shown_text import csv_cell, one_line, printable, without_secrets

SIGNED = "https://bucket.s3.amazonaws.com/net.pth?X-Amz-Credential=AKIA%2F2026&X-Amz-Expires=60&X-Amz-Signature=0a1b"
MASKED = "https://bucket.s3.amazonaws.com/net.pth?X-Amz-Credential=***&X-Amz-Expires=60&X-Amz-Signature=***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SIGNED, MASKED),
        (
            "load_from: https://ann:p@ss@host:8000/a.pth?download=1 answers",
            "load_from: https://***@host:8000/a.pth?download=1 answers",
        ),
        ("'https://x.blob.core.windows.net/a?sp=r&sig=ab%3D' b", "'https://x.blob.core.windows.net/a?sp=r&sig=***' b"),
        ("s3://key@bucket/a, https://h/a#access_token=x", "s3://***@bucket/a, https://h/a#access_token=***"),
        ("https://h/a?TOKEN=x&apikey=y&v=3", "https://h/a?TOKEN=***&apikey=***&v=3"),
        # what holds no secret
        ("hf://datasets/a/b@main/c", "hf://datasets/a/b@main/c"),
        ("https://h/a@v1/b?download=true", "https://h/a@v1/b?download=true"),
        ("ann@example.org; token=x", "ann@example.org; token=x"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets({"a": [text, 1]}) == {"a": [shown, 1]}


def test_errors_and_lines_hold_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(pickle.loads(pickle.dumps(UserError(SIGNED)))) == MASKED
    write_line(SIGNED)
    assert capsys.readouterr().out == f"{MASKED}\n"


@pytest.mark.parametrize("character", ["\x1b", "\r", "\b", "\x00", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066"])
def test_control_characters_are_written_as_json_writes_them(capsys: pytest.CaptureFixture[str], character: str) -> None:
    shown = f"\\u{ord(character):04x}"
    assert printable(f"a{character}b\n\tc") == f"a{shown}b\n\tc" and json.loads(f'"{shown}"') == character
    assert one_line(f"a\n{character}\tb") == f"a\\u000a{shown}\\u0009b"
    write_line(f"a{character}[2J")
    assert capsys.readouterr().out == f"a{shown}[2J\n"
    assert main(["predict", "resnet_small_cifar10", f"no{character}\nhere.png"]) == 2
    assert f"There is no file or folder no{shown}\\u000ahere.png; check" in capsys.readouterr().err
    assert listing([f"a\n{character}"]) == f"a\\u000a{shown}"
    assert progress_bar(desc=character).desc == shown  # type: ignore[attr-defined]


def test_other_characters_stay() -> None:
    text = "Zürich 花 \U0001f33a é\u0301 \u200d \u00a0 <b> \\ ="
    assert printable(text) == one_line(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["cat", "a=b", "'x", "", -0.5, None])
def test_other_cells_stay(value: object) -> None:
    assert csv_cell(value) is value
