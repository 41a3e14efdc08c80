"""Checkpoints: whole or not there, found out when corrupt, and refused where they do not fit."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from hf_finetune.errors import UserError
from hf_finetune.training.checkpoints import store as checkpoints
from hf_finetune.training.checkpoints.store import (
    check_room,
    find_fault,
    full_disk_told,
    list_checkpoints,
    rotate,
    set_aside,
    written_aside,
)
from tests.helpers.checkpoints import save


def test_a_published_checkpoint_is_whole_and_lists_its_files(tmp_path: Path):
    checkpoint = save(tmp_path, 5)
    assert checkpoint == tmp_path / "checkpoint-5" and find_fault(checkpoint) is None
    listed = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert listed.keys() == {"model.safetensors", "inner/shard"} and listed["inner/shard"]["bytes"] == 5
    save(tmp_path, 5, b"later")  # takes the place of the earlier one
    assert (checkpoint / "model.safetensors").read_bytes() == b"later" and find_fault(checkpoint) is None


@pytest.mark.parametrize("instant", ["flush", "rename"])
def test_what_ends_while_it_is_written_takes_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: str):
    def end(*args: object) -> None:
        raise KeyboardInterrupt

    if instant == "flush":
        monkeypatch.setattr(checkpoints, "flush", end)
    else:
        monkeypatch.setattr(Path, "rename", end)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 5)
    assert list_checkpoints(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"wei"), "model.safetensors has 3 of 7 bytes"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"weighty"), "model.safetensors is not what was"),
        (lambda folder: (folder / "inner/shard").unlink(), "inner/shard is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text('{"files"'), "manifest.json is no manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is no manifest"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json is no manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": {"inner/shard": 1}}'), "manifest.json is no"),
    ],
)
def test_a_corrupt_checkpoint_is_found_out(tmp_path: Path, damage, fault: str):
    checkpoint = save(tmp_path, 5)
    damage(checkpoint)
    assert find_fault(checkpoint).startswith(fault)


def test_set_aside_ones_are_not_listed_and_not_written_over(tmp_path: Path):
    for _ in range(2):
        set_aside(save(tmp_path, 5))
    assert list_checkpoints(tmp_path) == []
    assert {path.name for path in tmp_path.glob("corrupt-*")} == {"corrupt-checkpoint-5", "corrupt-checkpoint-5-2"}


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [40, 30, 20, 10]),
        (2, None, [40, 30]),
        (2, 10, [40, 10]),
        (1, 10, [40, 10]),
        (1, 40, [40]),
        (3, 10, [40, 30, 10]),
    ],
)
def test_the_oldest_go_but_never_the_newest_nor_the_best(tmp_path: Path, limit, best, left):
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    rotate(tmp_path, limit, best and tmp_path / f"checkpoint-{best}")
    assert [int(path.name.split("-")[1]) for path in list_checkpoints(tmp_path)] == left


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=count))


def test_missing_room_is_named_before_it_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    free(monkeypatch, 700_000_000)
    check_room(tmp_path / "run", 200_000_000, 100_000_000, 3)
    free(monkeypatch, 650_000_000)
    with pytest.raises(
        UserError, match=r"3 checkpoints of 200\.0 MB .* 700\.0 MB .* 650\.0 MB are free: 50\.0 MB are m"
    ):
        check_room(tmp_path / "run", 200_000_000, 100_000_000, 3)
    save(tmp_path, 5, bytes(1000))
    free(monkeypatch, 2500)
    check_room(tmp_path, 1000, 500, 3)  # one of the three is there already


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    save(tmp_path, 5)
    (tmp_path / ".unfinished" / "checkpoint-6").mkdir()
    free(monkeypatch, 3_000_000)
    with (
        pytest.raises(UserError, match=r"a checkpoint of 5\.0 MB .* free 2\.0 MB or more\. checkpoint-5 is whole, and"),
        full_disk_told(tmp_path, "a checkpoint", 5_000_000),
    ):
        raise error
    assert not (tmp_path / ".unfinished").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.EFBIG, "File too large"), SafetensorError("I/O error: File too large (os error 27)")]
)
def test_a_file_that_is_too_large_is_told_in_one_line(tmp_path: Path, error: Exception):
    save(tmp_path, 5)
    words = r"a checkpoint could not be written: .* raise the limit with ulimit -f unlimited\. checkpoint-5 is whole"
    with pytest.raises(UserError, match=words), full_disk_told(tmp_path, "a checkpoint", 5_000_000):
        raise error


def test_an_error_without_a_word_on_the_limit_of_files_is_that_of_the_limit(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4_000_000, resource.RLIM_INFINITY))
    with pytest.raises(UserError, match="ulimit -f unlimited"), full_disk_told(tmp_path, "a checkpoint", 5_000_000):
        raise RuntimeError("unexpected pos 64 vs 0")
    with pytest.raises(RuntimeError, match="shapes differ"), full_disk_told(tmp_path, "a checkpoint", 3_000_000):
        raise RuntimeError("shapes differ")


def test_everything_is_on_the_disk_before_the_name_and_the_name_after_it(tmp_path: Path, monkeypatch):
    """Flushed are files, the list of files, and the folders: else a power cut leaves a name without its content."""
    events: list[tuple[str, str]] = []
    flush, rename, write_text = checkpoints.flush, Path.rename, Path.write_text

    def name(path: Path) -> str:
        return path.relative_to(tmp_path).as_posix().removeprefix(".unfinished/")

    def flushing(path: Path) -> None:
        events.append(("flush", name(path)))
        flush(path)

    def renaming(path: Path, target: Path) -> Path:
        events.append(("rename", name(path)))
        return rename(path, target)

    def writing(path: Path, text: str) -> int:
        events.append(("write", name(path)))
        return write_text(path, text)

    monkeypatch.setattr(checkpoints, "flush", flushing)
    monkeypatch.setattr(Path, "rename", renaming)
    monkeypatch.setattr(Path, "write_text", writing)
    save(tmp_path, 5)
    published = events.index(("rename", "checkpoint-5"))
    before, after = events[:published], events[published + 1 :]
    for path in ("checkpoint-5/model.safetensors", "checkpoint-5/inner", "checkpoint-5/inner/shard"):
        assert ("flush", path) in before
    listed = before.index(("write", "checkpoint-5/manifest.json"))
    assert ("flush", "checkpoint-5/manifest.json") in before[listed:]
    assert before.index(("flush", "checkpoint-5")) > before.index(("flush", "checkpoint-5/manifest.json"))
    assert after == [("flush", ".")]


def test_flushing_asks_the_disk(tmp_path: Path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    (tmp_path / "file").touch()
    checkpoints.flush(tmp_path / "file")
    checkpoints.flush(tmp_path)
    assert synced == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


def test_what_is_written_aside_is_published_when_all_ranks_are_there(tmp_path: Path):
    events: list[str] = []

    def wait() -> None:
        events.append("published" if list_checkpoints(tmp_path) else "waited")

    def write(is_writer: bool) -> None:
        after = partial(events.append, "after")
        with written_aside(tmp_path, "checkpoint-5", 10, is_writer, wait, after) as unfinished:
            assert unfinished.parent.is_dir() == is_writer and list_checkpoints(tmp_path) == []
            if is_writer:
                unfinished.mkdir()
                (unfinished / "model.safetensors").write_bytes(b"weights")

    write(is_writer=False)
    assert events == ["waited"] * 3 and not any(tmp_path.iterdir())
    events.clear()
    write(is_writer=True)
    assert events == ["waited", "waited", "after", "published"]
    assert find_fault(tmp_path / "checkpoint-5") is None and not (tmp_path / ".unfinished").exists()


def test_other_errors_stay_what_they_are(tmp_path: Path):
    with pytest.raises(RuntimeError, match="shapes differ"), full_disk_told(tmp_path, "a checkpoint", 5_000_000):
        raise RuntimeError("shapes differ")


def test_an_error_without_a_word_on_a_full_disk_is_that_of_a_full_disk(tmp_path: Path, monkeypatch):
    free(monkeypatch, 0)
    with pytest.raises(UserError, match="None was saved before"), full_disk_told(tmp_path, "a checkpoint", 5_000_000):
        raise RuntimeError("unexpected pos 64 vs 0")
