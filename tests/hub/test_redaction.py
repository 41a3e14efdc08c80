"""What is taken out before others read it, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_finetune.hub.redaction import without_private_text


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/images", "~/images"),
        ("/home/annabel/images", ".../images"),
        ("/mnt/work/runs/x", "./runs/x"),
        ("/data/flowers", ".../flowers"),
        ("read /data/a/b.png: broken, and '/data/c d/e'", "read .../b.png: broken, and '.../c d/e'"),
        ("--dataset=/data/flowers --output_dir /mnt/work", "--dataset=.../flowers --output_dir ."),
        ("(/data/flowers/train)", "(.../train)"),
        # what is no path of this machine
        ("https://huggingface.co/uoft-cs/cifar10", "https://huggingface.co/uoft-cs/cifar10"),
        ("hf://datasets/a/b/c", "hf://datasets/a/b/c"),
        ("uoft-cs/cifar10, 3/4 of train/a", "uoft-cs/cifar10, 3/4 of train/a"),
        ("./runs/x ../y ~/z", "./runs/x ../y ~/z"),
        # tokens
        ("hub_token: secret", "hub_token: ***"),
        ("https://ann:pass@host/a.pth", "https://***@host/a.pth"),
        ("token " + "hf_" + "aB3" * 11, "token hf_***"),
    ],
)
def test_what_others_read(text: str, shown: str):
    assert without_private_text(text, Path("/mnt/work")) == shown


def test_a_path_that_is_there_is_taken_whole_and_a_nest_is_gone_through(tmp_path: Path):
    (tmp_path / "my own" / "images").mkdir(parents=True)
    nest = {"dataset": str(tmp_path / "my own" / "images"), "rates": [0.1, None, "/data/x"], "seed": 1}
    assert without_private_text(nest) == {"dataset": ".../images", "rates": [0.1, None, ".../x"], "seed": 1}
