"""Permissions of results."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hf_finetune.config.run_files import apply_umask


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_get_the_permissions_of_the_umask(tmp_path: Path, umask: int, expected: int):
    (tmp_path / "checkpoint").mkdir()
    for name in ("model.safetensors", "checkpoint/optimizer.pt"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o600)
    before = os.umask(umask)
    try:
        apply_umask(tmp_path)
    finally:
        os.umask(before)
    assert mode(tmp_path / "model.safetensors") == mode(tmp_path / "checkpoint/optimizer.pt") == expected


def test_links_stay_and_a_file_alone_is_enough(tmp_path: Path):
    target, script = tmp_path / "elsewhere", tmp_path / "script"
    for file, permissions in ((target, 0o600), (script, 0o700)):
        file.touch()
        file.chmod(permissions)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(target)
    before = os.umask(0o022)
    try:
        apply_umask(folder)
        apply_umask(script)
    finally:
        os.umask(before)
    assert mode(target) == 0o600 and mode(script) == 0o744
