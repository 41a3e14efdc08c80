"""HEIC images are read with pillow-heif, and named with what to install without it."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.images.decoding import UnreadableImage, decode_image, read_header
from hf_finetune.data.images.header_check import list_bad_images
from hf_finetune.data.images.heif import NEEDS_AVIF, NEEDS_HEIF
from hf_finetune.errors import UserError
from tests.helpers.folders import write_images

_HEIC = b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heicmiaf" + bytes(100)


@pytest.fixture
def _not_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow as it is before the first HEIF image."""
    PIL.Image.init()
    monkeypatch.setattr(PIL.Image, "ID", [name for name in PIL.Image.ID if name not in ("HEIF", "AVIF")])
    for name in ("HEIF", "AVIF"):
        monkeypatch.delitem(PIL.Image.OPEN, name, raising=False)


@pytest.fixture
def _not_installed(_not_registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


def heic(size: tuple[int, int] = (40, 24), orientation: int = 1) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = PIL.Image.fromarray(np.full((size[1], size[0], 3), (200, 40, 30), np.uint8))
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    pillow_heif.register_heif_opener()
    image.save(buffer, "HEIF", exif=exif.tobytes(), quality=95)
    del PIL.Image.OPEN["HEIF"]
    PIL.Image.ID.remove("HEIF")
    return buffer.getvalue()


@pytest.mark.usefixtures("_not_registered")
def test_it_is_read_by_its_content_and_upright(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(heic())  # as many programs name what a phone took
    assert read_header(str(tmp_path / "a.jpg")).size == (24, 40)
    image = decode_image({"bytes": heic(orientation=6), "path": None})
    assert (image.size, image.mode) == ((24, 40), "RGB")
    assert np.abs(np.asarray(image).astype(int) - (200, 40, 30)).max() < 12


@pytest.mark.usefixtures("_not_registered")
def test_a_damaged_one_is_unreadable() -> None:
    pytest.importorskip("pillow_heif")
    with pytest.raises(UnreadableImage) as caught:
        decode_image(heic()[:200])
    assert NEEDS_HEIF not in str(caught.value)


@pytest.mark.usefixtures("_not_installed")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_HEIC, NEEDS_HEIF),
        (_HEIC.replace(b"heic", b"mif1"), NEEDS_HEIF),
        (_HEIC.replace(b"ftypheic", b"ftypavif"), NEEDS_AVIF),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf" + bytes(100), NEEDS_AVIF),
        (b"\x00\x00\x00\x1cftypmp42" + bytes(100), "not an image"),
    ],
)
def test_without_a_decoder_the_reason_says_what_installs_one(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode_image(content)
    assert caught.value.reason == reason


@pytest.mark.usefixtures("_not_installed")
def test_all_of_a_folder_are_counted_in_one_place(tmp_path: Path) -> None:
    write_images(tmp_path, "cats/1.png", "dogs/1.png", "dogs/2.png")
    for number in range(9):
        (tmp_path / "cats" / f"IMG_{number}.HEIC").write_bytes(_HEIC)
    (tmp_path / "dogs" / "3.png").write_text("no image")
    counted = f"10 images cannot be read: 9 images are {NEEDS_HEIF}; dogs/3.png (not an image)"
    with pytest.raises(UserError) as caught:
        load_image_dataset(DataArguments(dataset=str(tmp_path)), seed=0)
    assert counted in str(caught.value)
    data = load_image_dataset(DataArguments(dataset=str(tmp_path), on_bad_image="skip"), seed=0)
    assert any(f"9 images are {NEEDS_HEIF}; dogs/3.png (not an image)" in note for note in data.notes)
    assert len(data.bad_images) == 10


def test_a_list_of_ordinary_ones_is_as_before() -> None:
    assert list_bad_images(["a.png (empty file)"] * 6) == ", ".join(["a.png (empty file)"] * 5) + " and 1 more"
    assert list_bad_images([f"a.heic ({NEEDS_HEIF})"]) == f"1 image is {NEEDS_HEIF}"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tmp_path):
        with pytest.raises(UnreadableImage, match="a folder, pipe or device, and not a file"):
            decode_image(str(path))
