"""Checkpoints in unusual circumstances: names, leftovers, unreadable files, a quota."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hf_finetune.errors import UserError
from hf_finetune.training.checkpoints import store


def make_checkpoint(folder: Path, step: int) -> Path:
    """Publish a checkpoint with one file."""
    unfinished = folder / store.UNFINISHED_FOLDER / f"checkpoint-{step}"
    unfinished.mkdir(parents=True)
    (unfinished / "weights").write_bytes(b"0123456789")
    return store.publish(unfinished, folder)


def test_the_newest_is_that_of_the_most_steps_not_of_the_last_name(tmp_path):
    for step in (9, 100, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-200").write_text("a file")
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in store.list_checkpoints(tmp_path)] == [
        "checkpoint-100",
        "checkpoint-10",
        "checkpoint-9",
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path, 1)
    assert store.find_fault(checkpoint) is None

    def failing(file: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

    monkeypatch.setattr(store, "_sha256", failing)
    assert store.find_fault(checkpoint) == f"weights cannot be read ({os.strerror(errno.EIO)})"


def test_an_error_without_a_file_name_names_the_checkpoint(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path, 1)

    def failing(file: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(store, "_sha256", failing)
    assert store.find_fault(checkpoint) == f"checkpoint-1 cannot be read ({os.strerror(errno.EIO)})"


def test_what_an_interrupted_removal_left_does_not_stop_the_next(tmp_path):
    checkpoint = make_checkpoint(tmp_path, 1)
    left = tmp_path / store.UNFINISHED_FOLDER / "removed-checkpoint-1"
    left.mkdir(parents=True)
    (left / "weights").write_text("left")
    store.remove_checkpoint(checkpoint)
    assert not checkpoint.exists() and not left.exists()


def test_remove_all_leaves_nothing_of_a_run(tmp_path):
    make_checkpoint(tmp_path, 1)
    store.set_aside(make_checkpoint(tmp_path, 2))
    (tmp_path / store.UNFINISHED_FOLDER / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "recipe.yaml").write_text("stays")
    store.remove_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_under_a_quota_all_that_is_needed_is_to_be_freed(tmp_path):
    """The disk has space, but the user may not have it: how much is missing is not known."""
    make_checkpoint(tmp_path, 7)
    message = r"checkpoint-8 of 2\.0 MB could not be written, .* are free; free 2\.0 MB or more\. checkpoint-7 is whole"
    with pytest.raises(UserError, match=message), store.full_disk_told(tmp_path, "checkpoint-8", 2_000_000):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    with pytest.raises(PermissionError), store.full_disk_told(tmp_path, "checkpoint-8", 2_000_000):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_billion_bytes_are_a_gigabyte(tmp_path):
    for count, text in ((1_000_000_000, r"1\.0 GB"), (999_900_000, r"999\.9 MB")):
        with pytest.raises(UserError, match=f" of {text} "), store.full_disk_told(tmp_path, "it", count):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
