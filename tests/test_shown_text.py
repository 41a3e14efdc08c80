"""What addresses keep secret is shown nowhere."""

from __future__ import annotations

import pickle

import pytest

from hf_finetune.errors import UserError
from hf_finetune.logs import write_line
from hf_finetune.shown_text import without_secrets

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
