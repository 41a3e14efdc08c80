"""DICOM files, written by pydicom: units, windows, inversion, and what to install."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from hf_finetune import finetune
from hf_finetune.config.data import DataArguments
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.images.decoding import Decoding, UnreadableImage, Unused, decode_image, read_header
from hf_finetune.data.images.dicom import NEEDS_DICOM
from hf_finetune.data.images.value_range import choose_range
from hf_finetune.errors import Interrupted, UserError
from tests.helpers.interrupting import StopAfterAStep
from tests.helpers.tiny import write_recipe

STORED = np.arange(20, dtype=np.uint16).reshape(4, 5) * 100  # with the slope 2 and the intercept -1000: -1000 to 2800
UNITS = 2.0 * STORED - 1000


def dicom(pixels: np.ndarray = STORED, **tags: Any) -> bytes:
    """Return the bytes of a file."""
    pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a"])
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.Rows, data.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[:2]
    colours = pixels.shape[-1] == 3
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if colours else (1, "MONOCHROME2")
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit, data.PixelRepresentation, data.PlanarConfiguration = data.BitsStored - 1, 0, 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


CT = {"RescaleSlope": 2, "RescaleIntercept": -1000}


def levels(content: bytes, how: Decoding | None = None) -> np.ndarray:
    """Return the grey levels of an image."""
    pixels = np.asarray(decode_image(content, how or Decoding()))
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


def test_a_window_is_shown_as_pydicom_shows_it() -> None:
    content = dicom(**CT, WindowCenter=[40, 300], WindowWidth=[400, 1500])
    from pydicom.dataset import Dataset
    from pydicom.pixels import apply_windowing

    window = Dataset()
    window.WindowCenter, window.WindowWidth = 40, 400
    window.BitsStored, window.PixelRepresentation, window.PhotometricInterpretation = 8, 0, "MONOCHROME2"
    shown = apply_windowing(UNITS, window)  # of 8 stored bits: from 0 to 255
    assert np.abs(levels(content) - shown).max() <= 0.5
    header = read_header(content)
    assert header.size == (4, 5) and not header.wide


@pytest.mark.parametrize(
    ("function", "share"),
    [
        ("SIGMOID", 1 / (1 + np.exp(-4 * (UNITS - 40) / 400))),
        ("LINEAR_EXACT", ((UNITS - 40) / 400 + 0.5).clip(0, 1)),
    ],
)
def test_other_shapes_of_windows(function: str, share: np.ndarray) -> None:
    content = dicom(**CT, WindowCenter=40, WindowWidth=400, VOILUTFunction=function)
    assert np.abs(levels(content) - 255 * share).max() <= 0.51


def test_a_stated_range_replaces_the_window_and_low_values_may_be_white() -> None:
    how = Decoding(value_range=(-1000.0, 2800.0))
    expected = np.round((UNITS + 1000) * 255 / 3800)
    window = {"WindowCenter": 40, "WindowWidth": 400}
    assert np.array_equal(levels(dicom(**CT, **window), how), expected)
    inverted = dicom(**CT, **window, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(levels(inverted, how), 255 - expected)
    assert np.array_equal(levels(inverted), 255 - levels(dicom(**CT, **window)))


def test_colours_and_frames() -> None:
    colours = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(np.asarray(decode_image(dicom(colours))), colours)
    frames = dicom(np.stack([STORED, STORED[::-1]]), WindowCenter=1000.5, WindowWidth=2001, NumberOfFrames=2)
    assert np.abs(levels(frames) - 255 * (STORED / 2000)).max() <= 0.51
    assert read_header(frames).unused == Unused.MORE


def test_what_cannot_be_read_is_told_in_one_line() -> None:
    content = dicom(**CT)
    for broken, reason in (
        (content[:-30], None),
        (content[:200], None),
        (dicom(PhotometricInterpretation="PALETTE COLOR"), "of the kind PALETTE COLOR"),
    ):
        with pytest.raises(UnreadableImage, match=reason) as caught:
            decode_image(broken)
        assert "\n" not in str(caught.value)


def test_without_a_window_the_range_of_a_folder_is_asked_for(tmp_path: Path) -> None:
    for name in ("ill", "well"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.dcm").write_bytes(dicom(STORED + number, **CT))
    data = load_image_dataset(DataArguments(dataset=str(tmp_path), validation_fraction=0), 0)
    with pytest.raises(UserError, match="some are negative; use --value_range LOW HIGH"):
        choose_range(data.wide_values, None, data.source)
    assert data.wide_values is not None and (data.wide_values.low, data.wide_values.high) == (-1000, 2804)


def test_without_pydicom_the_run_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = dicom(**CT)
    PIL.Image.init()
    monkeypatch.setattr(PIL.Image, "ID", [name for name in PIL.Image.ID if name != "DICOM"])
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for name in ("ill", "well"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.dcm").write_bytes(content)
    with pytest.raises(UserError, match=f"2 images are {NEEDS_DICOM.replace('[', '.').replace(']', '.')}"):
        load_image_dataset(DataArguments(dataset=str(tmp_path), validation_fraction=0), 0)


@pytest.mark.slow
def test_a_run_on_dicom_images_is_resumed_to_the_bit(tmp_path: Path, datasets_cache: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(32):
        folder = tmp_path / "scans" / ("test" if number % 4 == 0 else "train") / ("dark" if number % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        stored = generator.integers(400, 700, (16, 16), dtype=np.uint16) + np.uint16(0 if number % 2 else 200)
        (folder / f"{number}.dcm").write_bytes(dicom(stored, **CT, WindowCenter=400, WindowWidth=1200))
    recipe = str(write_recipe(tmp_path, num_train_epochs=2, global_batch_size=8))

    def run(name: str, **more: Any) -> dict[str, torch.Tensor]:
        finetune(recipe, dataset=str(tmp_path / "scans"), output_dir=str(tmp_path / name), **more)
        return load_file(tmp_path / name / "model.safetensors")

    whole = run("whole")
    with pytest.raises(Interrupted):
        run("stopped", callbacks=[StopAfterAStep()])
    resumed = run("stopped")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
