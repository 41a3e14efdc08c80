"""Raw IDX files, gzipped or not."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from hf_finetune.data.images.decoding import decode_image
from hf_finetune.data.sources.idx import find_idx_files, read_idx_folder
from hf_finetune.errors import UserError

_IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
_LABELS = np.array([2, 0, 1, 2, 0, 1], dtype=np.uint8)


def to_idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def write(folder: Path, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, rows in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
        for name, contents in (("images-idx3", _IMAGES[rows]), ("labels-idx1", _LABELS[rows])):
            data = to_idx(contents)
            path = folder / f"{prefix}-{name}-ubyte"
            if zipped:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
            else:
                path.write_bytes(data)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_images_and_labels(tmp_path: Path, zipped: bool, below: str) -> None:
    write(tmp_path / below, zipped)
    raw = read_idx_folder(tmp_path, ("ant", "bee", "cat"))
    assert list(raw.splits) == ["train", "test"]
    train = raw.splits["train"]
    assert train["label"][:] == [2, 0, 1, 2]
    assert train.features["label"].names == ["ant", "bee", "cat"]
    for image, pixels in zip(train["image"], _IMAGES, strict=False):
        np.testing.assert_array_equal(np.asarray(decode_image(image)), np.repeat(pixels[:, :, None], 3, axis=2))
    assert raw.splits["test"]["label"][:] == [0, 1]


def test_labels_without_names_are_called_by_number(tmp_path: Path) -> None:
    assert read_idx_folder(write(tmp_path), None).splits["train"].features["label"].names == ["0", "1", "2"]


def test_other_folders_have_no_idx_files(tmp_path: Path) -> None:
    (tmp_path / "train-images.jpg").touch()
    assert find_idx_files(tmp_path) == {}


def test_missing_file(tmp_path: Path) -> None:
    (write(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="has t10k-images-idx3-ubyte, but not the labels of test"):
        read_idx_folder(tmp_path, None)


def test_damaged_files(tmp_path: Path) -> None:
    images = write(tmp_path) / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for contents, message in (
        (whole[:-1], "should hold 80 bytes of data and has 79"),
        (whole[:7], "not an IDX file"),
        (b"not idx at all, but long enough", "not an IDX file"),
        (to_idx(_IMAGES[:3]), "holds 3 images, but train-labels-idx1-ubyte 4 labels"),
    ):
        images.write_bytes(contents)
        with pytest.raises(UserError, match=message):
            read_idx_folder(tmp_path, None)
    images.unlink()
    images.with_name(f"{images.name}.gz").write_bytes(gzip.compress(whole)[:-12])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz cannot be read: .*; fetch it again"):
        read_idx_folder(tmp_path, None)


def test_label_outside_the_range(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a label 2, outside the range 0 to 1"):
        read_idx_folder(write(tmp_path), ("ant", "bee"))
