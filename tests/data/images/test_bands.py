"""Images of any number of channels: arrays, TIFF files of every layout, and what cannot be read, in one line."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_finetune.data.images.bands import look, read_bands, shown_bands
from hf_finetune.data.images.decoding import UnreadableImage

BANDS = np.arange(4 * 5 * 13, dtype=np.uint16).reshape(4, 5, 13) * 200


def write(path: Path, array: np.ndarray, **settings: object) -> Path:
    """Write an array as its name says."""
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        pytest.importorskip("tifffile").imwrite(path, array, **settings)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", ">u2", "float64"])
@pytest.mark.parametrize("layout", ["HWC", "CHW"])
def test_arrays_are_read_as_they_are_stored(dtype: str, layout: str, tmp_path: Path) -> None:
    array = (BANDS % 120).astype(dtype)
    file = write(tmp_path / "a.npy", array if layout == "HWC" else array.transpose(2, 0, 1).copy())
    pixels = read_bands(str(file), 13)
    assert pixels.dtype == np.float32 and np.array_equal(pixels, (BANDS % 120).transpose(2, 0, 1))
    assert np.array_equal(read_bands({"bytes": file.read_bytes(), "path": None}, 13), pixels)
    assert look(str(file), 13).layout == layout


def test_one_axis_that_is_shorter_than_both_others_is_that_of_the_channels(tmp_path: Path) -> None:
    for shape, channels, layout in (
        ((20, 30, 4), 4, "HWC"),
        ((4, 20, 30), 4, "CHW"),
        ((20, 30), 1, "HW"),
        ((13, 13, 13), None, None),
        ((20, 4, 30), None, None),
    ):
        stored = look(str(write(tmp_path / "a.npy", np.zeros(shape, np.uint8))))
        assert (stored.channels, stored.layout) == (channels, layout)


@pytest.mark.parametrize(
    "settings",
    [
        {"planarconfig": "contig", "photometric": "minisblack"},
        {"planarconfig": "separate", "photometric": "minisblack"},
        {"photometric": "minisblack", "metadata": None, "pages": True},
        {"photometric": "minisblack", "imagej": True},
        {"planarconfig": "contig", "photometric": "minisblack", "bigtiff": True, "byteorder": ">"},
        {"planarconfig": "contig", "photometric": "minisblack", "compression": "lzw", "predictor": True},
    ],
    ids=["interleaved", "planar", "pages", "imagej", "bigtiff", "lzw"],
)
def test_tiff_files_of_every_layout(settings: dict, tmp_path: Path) -> None:
    if "compression" in settings:
        pytest.importorskip("imagecodecs")
    interleaved = settings.get("planarconfig") == "contig"
    array = BANDS if interleaved else BANDS.transpose(2, 0, 1).copy()
    if settings.pop("pages", False):
        tifffile = pytest.importorskip("tifffile")
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            for band in array:
                file.write(band, contiguous=False, **settings)
    else:
        write(tmp_path / "a.tif", array, **settings)
    assert np.array_equal(read_bands(str(tmp_path / "a.tif"), 13), BANDS.transpose(2, 0, 1))
    assert look(str(tmp_path / "a.tif")).channels == 13


def test_float_tiffs_and_what_pillow_opens(tmp_path: Path) -> None:
    values = np.linspace(-3, 900, 4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)
    file = write(tmp_path / "a.tif", values, photometric="rgb")
    assert np.array_equal(read_bands(str(file), 3), values.transpose(2, 0, 1))
    rgba = np.arange(4 * 5 * 4, dtype=np.uint8).reshape(4, 5, 4)
    PIL.Image.fromarray(rgba).save(tmp_path / "a.png")
    assert np.array_equal(read_bands(str(tmp_path / "a.png"), 4), rgba.transpose(2, 0, 1))
    assert np.array_equal(read_bands(PIL.Image.fromarray(rgba), 4), rgba.transpose(2, 0, 1))
    deep = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000
    PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(read_bands(str(tmp_path / "deep.png"), 1), deep[None])


def _pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


def _fortran() -> bytes:
    file = io.BytesIO()
    np.save(file, np.asfortranarray(BANDS))
    return file.getvalue()


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_pickled(), "it holds objects, which may run code"),
        (_fortran(), "stored in Fortran order"),
        (_saved(BANDS)[:-1], "the file is truncated"),
        (_saved(BANDS[..., :4]), "its shape is (4, 5, 4), of which no end is the 13 channels"),
        (_saved(BANDS[..., 0]), "it has 1 channel instead of 13"),
        (_saved(BANDS[None]), "its shape is (1, 4, 5, 13)"),
        (_saved(BANDS.astype(np.int64)), "its values are int64"),
        (_saved(np.where(BANDS > 9, np.nan, 1.0)), "not finite"),
        (b"\x93NUMPY", "reading magic string"),
        (b"II*\0 is no TIFF", ""),
        (pickle.dumps({"a": 1}), "not an image"),
        (b"", "empty file"),
    ],
    ids=["objects", "fortran", "truncated", "four", "one", "batch", "int64", "nan", "magic", "tiff", "pickle", "empty"],
)
def test_what_cannot_be_read_is_told_in_one_line(content: bytes, reason: str) -> None:
    if content.startswith(b"II"):
        pytest.importorskip("tifffile")
    with pytest.raises(UnreadableImage) as caught:
        read_bands({"bytes": content, "path": "field.npy"}, 13)
    assert str(caught.value).startswith("field.npy cannot be read as an image: ") and reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_to_look_at_has_three_channels_from_black_to_white() -> None:
    pixels = np.stack([np.linspace(low, low + 500, 100, dtype=np.float32).reshape(10, 10) for low in (0, 90, -7, 3)])
    shown = np.asarray(shown_bands(pixels))
    assert shown.shape == (10, 10, 3) and shown.min() == 0 and shown.max() == 255
    assert np.array_equal(shown[..., 0], shown[..., 2])
    gray = np.asarray(shown_bands(np.full((2, 3, 3), 7, np.float32)))
    assert gray.shape == (3, 3, 3) and not gray.any()
