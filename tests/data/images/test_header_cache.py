"""Headers are read once: what is found again, and what is read again because it may have changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.images import header_cache, header_check
from hf_finetune.data.images.decoding import Header
from hf_finetune.data.images.header_cache import HeaderCache, file_keys
from hf_finetune.errors import UserError
from tests.helpers.folders import write_images


@pytest.fixture(autouse=True)
def _old_files(datasets_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a test are not too young to be kept."""
    monkeypatch.setattr(header_cache, "_TICK", 0)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers are read."""
    names: list[str] = []
    read = header_check.read_header

    def remember(value: dict) -> Header:
        names.append(Path(value["path"]).name)
        return read(value)

    monkeypatch.setattr(header_check, "read_header", remember)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data", "cats/1.png", "cats/2.png", "dogs/3.png", "dogs/4.png")


def load(folder: Path, **arguments: object) -> set[str]:
    data = load_image_dataset(DataArguments(dataset=str(folder), validation_fraction=0.5, **arguments), seed=0)
    assert data.image_sizes == (2, 3)
    return {f"{role}: {len(split)}" for role, split in data.splits.items()}


def kept(cache: Path) -> Path:
    (file,) = (cache / "hf_finetune").glob("headers-*")
    return file


def test_an_unchanged_folder_is_not_opened_again(folder: Path, opened: list[str]) -> None:
    first = load(folder)
    assert sorted(opened) == ["1.png", "2.png", "3.png", "4.png"]
    opened.clear()
    assert load(folder) == first and opened == []
    assert load(folder, max_train_samples=1) and opened == []


def test_pages_are_counted_without_opening_files_again(folder: Path, opened: list[str]) -> None:
    page = PIL.Image.fromarray(np.zeros((2, 3), np.uint8))
    page.save(folder / "cats" / "1.tif", save_all=True, append_images=[page] * 4)
    page.save(folder / "dogs" / "3.gif", save_all=True, append_images=[PIL.ImageOps.invert(page)])
    page.convert("RGB").save(folder / "dogs" / "5.jpg", "MPO", save_all=True, append_images=[page.convert("RGB")])
    for count in (7, 0):
        opened.clear()
        notes = load_image_dataset(DataArguments(dataset=str(folder)), seed=0).notes
        assert len(opened) == count
        assert "2 of 7 images have more than one page or frame; the first is used." in notes
        assert any(note.startswith("1 of 7 images is a photo to which the phone or camera") for note in notes)


def test_what_has_changed_is_read_again(folder: Path, opened: list[str]) -> None:
    load(folder)
    opened.clear()
    changed = folder / "cats" / "1.png"
    before = changed.stat()
    changed.write_bytes(changed.read_bytes()[::-1])  # the same size, and then the same time of modification
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    write_images(folder, "dogs/5.png")
    with pytest.raises(UserError, match=r"1 image cannot be read: cats/1\.png \(not an image\)"):
        load(folder)
    assert sorted(opened) == ["1.png", "5.png"]
    opened.clear()
    with pytest.raises(UserError, match="1 image cannot be read"):
        load(folder)
    assert opened == ["1.png"], "an unreadable image is not kept"


def test_another_size_is_seen(folder: Path) -> None:
    load(folder)
    PIL.Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "dogs" / "4.png")
    assert load_image_dataset(DataArguments(dataset=str(folder)), seed=0).image_sizes is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty"])
def test_a_corrupt_cache_is_made_again(folder: Path, datasets_cache: Path, opened: list[str], damage: str) -> None:
    load(folder)
    file = kept(datasets_cache)
    whole = file.read_bytes()
    middle = whole.index(b"keys.npy") + 8 + 128 + 40  # in the hashes
    file.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "text": b"text",
            "empty": b"",
        }[damage]
    )
    opened.clear()
    load(folder)
    assert len(opened) == 4
    opened.clear()
    load(folder)
    assert opened == []


def test_a_moved_folder_and_another_pillow_are_read_anew(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder)
    shutil.copytree(folder, folder.with_name("copy"))
    opened.clear()
    load(folder.with_name("copy"))
    assert len(opened) == 4
    opened.clear()
    monkeypatch.setattr(PIL, "__version__", "0")
    load(folder)
    assert len(opened) == 4


def test_a_file_that_may_change_within_a_tick_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(folder / "cats" / "1.png"), str(folder / "gone.png"), str(folder)]
    assert [bool(key.any()) for key in file_keys(paths)] == [True, False, False]
    changed = os.stat(paths[0]).st_ctime_ns
    monkeypatch.setattr(header_cache, "_TICK", 20_000_000)
    for age, is_kept in ((-1_000_000, False), (19_000_000, False), (21_000_000, True)):
        monkeypatch.setattr(header_cache.time, "time_ns", lambda age=age: changed + age)
        assert bool(file_keys(paths[:1]).any()) is is_kept


def test_a_cache_that_cannot_be_written_is_done_without(folder: Path, datasets_cache: Path, opened: list[str]) -> None:
    datasets_cache.write_text("a file, where a folder should be")
    load(folder)
    load(folder)
    assert len(opened) == 8


def test_entries_that_nobody_uses_go_when_they_are_more_than_the_others(folder: Path, datasets_cache: Path) -> None:
    def used(keys: np.ndarray) -> int:
        cache = HeaderCache("name")
        unknown = [row for row, size in enumerate(cache.find(keys)) if size is None]
        cache.add(keys[unknown], [Header(1, 1)] * len(unknown))
        cache.save()
        return len(HeaderCache("name")._keys)

    keys = np.random.default_rng(0).integers(1, 2**63, (100, 2)).astype(np.uint64)
    assert used(keys[:40]) == 40
    assert used(keys[30:60]) == 60
    assert used(keys[95:]) == 5
    assert HeaderCache("other").find(keys[:1]) == [None]
