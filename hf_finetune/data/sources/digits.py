"""The built-in dataset: scikit-learn's 1,797 scanned digits of 8 x 8 pixels. It needs no network."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image

from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import Location
from hf_finetune.data.splits import stratified_split

_TEST_FRACTION = 0.2
_TEST_SEED = 0  # not the run's seed: the test split is the same for everybody
_LARGEST_VALUE = 16  # a pixel is the number of black points in a square of 4 x 4 points
_CLASSES = list("0123456789")


def read_digits() -> RawDataset:
    """Return the digits as PNG files of uint8, 0 to 255, with a fifth of each class as the test split."""
    from sklearn.datasets import load_digits  # imports for half a second, and only this dataset needs it

    digits = load_digits()
    images = np.rint(digits.images * (255 / _LARGEST_VALUE)).astype(np.uint8)
    rows_of_split = dict(
        zip(("train", "test"), stratified_split(digits.target, _TEST_FRACTION, _TEST_SEED), strict=True)
    )
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=_CLASSES)})
    splits = {
        split: Dataset.from_dict(
            {
                "image": [{"bytes": _to_png(images[row]), "path": f"digit_{row:04}.png"} for row in rows],
                "label": digits.target[rows],
            },
            features=features,
        )
        for split, rows in rows_of_split.items()
    }
    return RawDataset(splits, source="scikit-learn's digits")


def _to_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def matches(location: Location) -> bool:
    """Return whether a dataset is this one."""
    return location.path is None and location.entry is not None and location.entry.name == "digits"


def read(_: Location) -> RawDataset:
    """Read the dataset."""
    return read_digits()
