"""Zip archives of class folders: read as the folder that they held, and never written outside the cache."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from hf_finetune.config.data import DataArguments
from hf_finetune.data.sources.open import open_source
from hf_finetune.errors import UserError
from tests.helpers.folders import write_images


@pytest.mark.parametrize("root", [".", "flowers"])
def test_a_zip_archive_is_read_as_the_folder_that_it_held(tmp_path, datasets_cache, monkeypatch, root) -> None:
    folder = write_images(
        tmp_path / "in", *(f"{root}/{split}/{label}/1.png" for split in ("train", "test") for label in "ab")
    )
    archive = Path(shutil.make_archive(str(tmp_path / "flowers"), "zip", folder))
    raw, _ = open_source(DataArguments(dataset=str(archive)))
    assert sorted(raw.splits) == ["test", "train"] and raw.source == str(archive)
    assert raw.splits["train"].features["label"].names == ["a", "b"]
    assert raw.folder is not None and raw.folder.is_relative_to(datasets_cache)
    monkeypatch.setattr(zipfile.ZipFile, "extract", lambda *args: pytest.fail("unpacked again"))
    again, _ = open_source(DataArguments(dataset=str(archive)))
    assert again.folder == raw.folder


def write_zip(path: Path, name: str, attributes: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cats/1.png", b"x")
        member = zipfile.ZipInfo(name)
        member.external_attr = attributes << 16
        archive.writestr(member, "/etc/passwd")
    return path


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("../outside.png", 0o644, "leads out of the archive"),
        ("cats/../../outside.png", 0o644, "leads out of the archive"),
        ("/outside.png", 0o644, "leads out of the archive"),
        ("..\\outside.png", 0o644, "leads out of the archive"),
        ("cats/2.png", stat.S_IFLNK | 0o777, "is a link"),
    ],
)
def test_nothing_is_written_outside_the_cache(tmp_path, datasets_cache, name, attributes, message) -> None:
    archive = write_zip(tmp_path / "evil.zip", name, attributes)
    with pytest.raises(UserError, match=f"evil.zip: .* {message}"):
        open_source(DataArguments(dataset=str(archive)))
    assert not list((datasets_cache / "hf_finetune").iterdir()) and not list(tmp_path.rglob("outside*"))


def test_an_archive_larger_than_the_disk_or_damaged_is_refused(tmp_path, datasets_cache, monkeypatch) -> None:
    archive = write_zip(tmp_path / "own.zip", "dogs/1.png")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3))
        with pytest.raises(UserError, match=r"own\.zip holds 0\.0 GB, and the disk of"):
            open_source(DataArguments(dataset=str(archive)))
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"/etc/passwd", b"/etc/shadow"))  # its checksum no longer fits
    with pytest.raises(UserError, match=r"own\.zip cannot be unpacked: Bad CRC-32"):
        open_source(DataArguments(dataset=str(archive)))
    assert not list((datasets_cache / "hf_finetune").iterdir())
