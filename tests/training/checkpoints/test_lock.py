"""One run at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_finetune import finetune
from hf_finetune.errors import UserError
from hf_finetune.training.checkpoints.lock import LOCK_FILE, check_unused, locked
from hf_finetune.training.checkpoints.run_folder import check_unchanged, find_resumable, prepare_folder
from tests.helpers.launched import run_in
from tests.helpers.processes import REPOSITORY
from tests.helpers.tiny import write_recipe

HOLDER = """
import os, sys, time
from pathlib import Path
from hf_finetune.training.checkpoints.lock import locked
with locked(Path(sys.argv[1])):
    if not os.fork():  # the worker itself says that it has begun
        print(os.getpid(), flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_told_who_has_the_folder_and_since_when(tmp_path: Path):
    folder = tmp_path / "run"
    with locked(folder):
        for attempt in (lambda: check_unused(folder), lambda: locked(folder).__enter__()):
            with pytest.raises(UserError) as refused:
                attempt()
            assert re.fullmatch(
                rf"output_dir: a run is at work in {re.escape(str(folder))}: process {os.getpid()} on \S+ since"
                r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; wait for its end, or use another --output_dir\.",
                str(refused.value),
            )
    assert not any(folder.iterdir())
    check_unused(folder)
    with locked(folder):
        pass


def test_an_error_releases_the_folder(tmp_path: Path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_lock_of_a_killed_run_is_gone_though_its_workers_live(tmp_path: Path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(UserError, match=f"process {holder.pid} on"):
            check_unused(tmp_path)
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # it lives
        assert (tmp_path / LOCK_FILE).exists()
        assert find_resumable(tmp_path, {}, overwrite=False) is None  # the file alone does not make it somebody's
        with locked(tmp_path):
            pass
    finally:
        os.kill(worker, 9)
        holder.kill()


def test_a_run_that_began_and_ended_meanwhile_is_not_overwritten(tmp_path: Path):
    prepare_folder(tmp_path, "", overwrite=False)
    check_unchanged(tmp_path, None, overwrite=False)
    (tmp_path / "checkpoint-3").mkdir()
    check_unchanged(tmp_path, tmp_path / "checkpoint-3", overwrite=False)
    with pytest.raises(UserError, match="another run has used"):
        check_unchanged(tmp_path, None, overwrite=False)
    (tmp_path / "metrics.json").touch()
    with pytest.raises(UserError, match="another run has used"):
        check_unchanged(tmp_path, tmp_path / "checkpoint-3", overwrite=False)
    check_unchanged(tmp_path, None, overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_the_second_start_into_a_folder_is_refused(image_folder, tmp_path, monkeypatch, together: bool):
    if together:  # both have looked before one of them began
        monkeypatch.setattr("hf_finetune.training.plan.check_unused", lambda folder: None)
    recipe, folder = str(write_recipe(tmp_path, num_train_epochs=1)), tmp_path / "run"
    with locked(folder):
        with pytest.raises(UserError, match="a run is at work in"):
            finetune(recipe, dataset=str(image_folder), output_dir=str(folder))
        assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    finetune(recipe, dataset=str(image_folder), output_dir=str(folder))
    assert not (folder / LOCK_FILE).exists()


@pytest.mark.slow
def test_a_second_start_of_two_processes_is_refused_by_one_line(image_folder, tmp_path):
    recipe, folder = write_recipe(tmp_path, num_train_epochs=1), tmp_path / "run"
    words = ["--recipe", recipe, "--dataset", image_folder, "--output_dir", folder]
    command = [REPOSITORY / "scripts" / "run_finetune.py", *words]
    with locked(folder):
        ended = run_in(2, *command)
        assert ended.returncode == 1
        told = [line for line in ended.stderr.splitlines() if line.startswith("hf-finetune: error: ")]
        assert len(told) == 1 and f"a run is at work in {folder}: process {os.getpid()} on" in told[0]
        assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
    (folder / LOCK_FILE).write_text("process 1 on a machine that lost its power")
    ended = run_in(2, *command)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (folder / "metrics.json").is_file() and not (folder / LOCK_FILE).exists()


def test_a_disk_without_locks_is_used_with_a_note(tmp_path, monkeypatch, logged):
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    check_unused(tmp_path)
    with locked(tmp_path):
        pass
    assert logged == [f"Note: {tmp_path} cannot be locked (No locks available); let no other run use it."]


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output_dir: .*run cannot be created \(Not a directory\); use another"):
        locked(tmp_path / "file" / "run").__enter__()
