"""Features on disk, so that a second run and a resume need not compute them.

One .npy file a split lies in the datasets cache, named by a digest of all that the features depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_finetune.data.checked_rows import CheckedRows, DamagedFile, write_sums
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

# Changes of these may change the features; so may this package's own decoding.
_LIBRARIES = ("hf_finetune", "pillow", "timm", "torch", "torchvision", "transformers")
_ABOUT_CLASSES = ("id2label", "label2id", "num_labels", "problem_type")  # of a configuration: they concern the head
_ROWS = 1000  # images read at a time


class FeaturesNotKept(Exception):
    """Features are computed anew in every epoch; the message says why."""


def feature_file(split: Dataset, model: PreTrainedModel, head: set[str], settings: Mapping[str, Any]) -> Path:
    """Return where the features of a split's images are kept, whether they are there or not.

    `head` names the tensors that do not matter; `settings` is what else decides the features, as JSON can hold it.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in _ABOUT_CLASSES}
    versions = {distribution.name: distribution.version for distribution in _distributions()}
    words = json.dumps(
        {"model": type(model).__name__, "config": config, "versions": versions, **settings}, sort_keys=True, default=str
    )
    digest = hashlib.sha256(words.encode())
    digest.update(digest_of_weights(model, head))
    digest.update(_digest_of_images(split))
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_finetune" / "features" / f"{digest.hexdigest()[:32]}.npy"


def _distributions() -> Iterable[metadata.Distribution]:
    for name in _LIBRARIES:
        try:
            yield metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue


def digest_of_weights(model: PreTrainedModel, head: set[str]) -> bytes:
    """Return the SHA-256 of the tensors of a network but those that `head` names, with names, shapes and dtypes."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if name not in head:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()


def _digest_of_images(split: Dataset) -> bytes:
    """Digest every image's bytes, or of a file its path, size and time of change, in their order."""
    digest = hashlib.sha256()
    for table in split.with_format("arrow").select_columns(["image"]).iter(batch_size=_ROWS):
        for image in table["image"].to_pylist():
            if image["bytes"] is not None:
                digest.update(image["bytes"])
            elif os.path.exists(image["path"]):
                state = os.stat(image["path"])
                digest.update(f"{image['path']} {state.st_size} {state.st_mtime_ns}".encode())
            else:
                digest.update(f"{image['path']} is lost".encode())
            digest.update(b"\0")
    return digest.digest()


def read_features(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the features of a file, float32 of `shape`, mapped into memory after every checksum was checked.

    Returns:
        None where there is no such file. One that is damaged is deleted, which the log says.
    """
    if not path.is_file():
        return None
    try:
        features = CheckedRows(path, shape, "<f4")
        damaged = features.damaged()
        if damaged:
            raise DamagedFile(f"{path.name}: rows {damaged[0].start:,} to {damaged[0].stop - 1:,} have changed")
    except DamagedFile as fault:
        with suppress(OSError):  # then nothing can be kept there either
            path.unlink()
        logger.warning(f"Note: kept features are damaged or of another version ({fault}); they are computed anew.")
        return None
    return features.values


def write_features(path: Path, shape: tuple[int, ...], batches: Iterable[np.ndarray]) -> None:
    """Write batches of features, together of `shape`, as float32 with checksums; the file appears when it is whole.

    Raises `FeaturesNotKept` where the disk has too little space, before the first batch, or cannot be written to.
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(path.parent).free
        if needed > free:
            raise FeaturesNotKept(f"they take {needed / 1e9:,.1f} GB and {path.parent} has {free / 1e9:,.1f} GB left")
        descriptor, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        with open(descriptor, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for batch in batches:
                file.write(np.ascontiguousarray(batch, dtype="<f4").data)
        write_sums(Path(partial))
        os.replace(partial, path)
        partial = None
    except OSError as error:
        raise FeaturesNotKept(f"{path.parent} cannot be written to ({error.strerror})") from error
    finally:
        if partial is not None:
            os.unlink(partial)
