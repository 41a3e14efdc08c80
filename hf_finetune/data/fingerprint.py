"""What the data of a run are, in a few bytes for each image, so that a resumed run notices when they have changed.

Images are known by name, label and content, wherever their folder is. An image inside a dataset is known by its length
and, up to a gigabyte, by all its bytes; a file by its size and by its beginning, middle and end, or in full where it is
small. Of more than 50,000 files, that many are read and of the others the size is compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hf_finetune.data.columns import RowsOf, image_lengths, image_paths
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.decoding import image_name, shown_name
from hf_finetune.data.streaming.split import StreamedSplit
from hf_finetune.errors import UserError, first_line, listing
from hf_finetune.logs import get_logger, progress_bar
from hf_finetune.pieces import in_pieces

logger = get_logger(__name__)

FINGERPRINT_FILE = "data_fingerprint.safetensors"

_PART = 4096  # bytes at the beginning, in the middle and at the end of a file
_FILES_READ = 50_000
_BYTES_READ = 2**30  # of images inside a dataset
_ROWS_READ = 2_000  # of larger datasets
_CHUNK = 1024  # images read at a time
_UNREADABLE = 0  # the content of what cannot be read, which other checks report
_SECONDS_BEFORE_BAR = 2

Codes = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class SplitFingerprint:
    """Of each row of a source's split, or each file of a streamed one, a number for each of some things.

    Attributes:
        names: Hashes of the paths below the folder that all share, uint32 of shape (rows,); 0 without a path.
        labels: Class ids, int32 of shape (rows,), or hashes of several; of a file of a stream, 0.
        contents: Hashes of the contents, uint32 of shape (rows,); 0 for what cannot be read.
        weights: The values of `weight_column`, float64 of shape (rows,), of train alone; (0,) without.
    """

    names: Codes
    labels: npt.NDArray[np.int32]
    contents: Codes
    weights: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a dataset.

    Attributes:
        label_names: The class names by class id.
        splits: By role; roles that share a split of the source are there once.
    """

    label_names: Sequence[str]
    splits: Mapping[str, SplitFingerprint]

    def save(self, folder: Path) -> None:
        """Write the fingerprint into the folder of a run."""
        arrays = {
            f"{role}/{name}": np.ascontiguousarray(array)
            for role, split in self.splits.items()
            for name, array in vars(split).items()
        }
        names = {str(class_id): name for class_id, name in enumerate(self.label_names)}
        unfinished = folder / f".{FINGERPRINT_FILE}.unfinished"
        save_file(arrays, unfinished, metadata=names)
        unfinished.replace(folder / FINGERPRINT_FILE)

    @classmethod
    def load(cls, folder: Path) -> Fingerprint | None:
        """Read the fingerprint of the run in a folder; None where there is none, or none that can be read."""
        path = folder / FINGERPRINT_FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, "numpy") as file:
                names = file.metadata() or {}
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            fields: dict[str, dict[str, Any]] = {}
            for key, array in arrays.items():
                role, _, name = key.partition("/")
                fields.setdefault(role, {})[name] = array
            label_names = [names[str(class_id)] for class_id in range(len(names))]
            return cls(label_names, {role: SplitFingerprint(**its_fields) for role, its_fields in fields.items()})
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            logger.warning(f"Note: {path} cannot be read ({first_line(error)}); the data are not compared with it.")
            return None


def fingerprint_of(data: ImageDataset) -> Fingerprint:
    """Return the fingerprint of a dataset; of a streamed one, that of its files."""
    found: dict[int, str] = {}
    splits: dict[str, SplitFingerprint] = {}
    for role, split in data.splits.items():
        whole = split.shards if isinstance(split, StreamedSplit) else data.sources[role]
        if id(whole) in found:
            continue
        found[id(whole)] = role
        if isinstance(split, StreamedSplit):
            paths = [file.url if file.is_local else None for file in split.shards.files]
            names = _hashes(file.name.encode() for file in split.shards.files)
            splits[role] = SplitFingerprint(names, np.zeros(len(paths), np.int32), _of_files(paths))
        else:
            source = data.sources[role]
            names, labels = _names(image_paths(source)), _label_codes(data.source_labels[role])
            splits[role] = SplitFingerprint(names, labels, _contents(source))
            if role == "train" and data.weights is not None:
                splits[role] = replace(splits[role], weights=data.weights)
    pa.default_memory_pool().release_unused()  # what reading the images took
    return Fingerprint(data.label_names, splits)


def check_same_data(folder: Path, data: ImageDataset, unreadable: Sequence[str]) -> None:
    """Compare a dataset with that of the unfinished run in a folder.

    Args:
        folder: The folder of the run. One without a fingerprint, of an earlier version, is not compared.
        data: The dataset.
        unreadable: The images that the run could not read, as `describe_bad_image` has them. They may have changed.

    Raises:
        UserError: Names, labels, contents or classes have changed.
    """
    before = Fingerprint.load(folder)
    if before is None:
        return
    change = _describe_change(before, fingerprint_of(data), data, unreadable)
    if change is not None:
        raise UserError(
            f"{data.source}: the data have changed since the unfinished run in {folder} began: {change}; restore them,"
            " use another --output_dir, or --overwrite_output_dir to start anew."
        )


def _describe_change(
    before: Fingerprint, now: Fingerprint, data: ImageDataset, unreadable: Sequence[str]
) -> str | None:
    for role, old in before.splits.items():
        new = now.splits.get(role)
        if new is None:
            return f"there is no {role} any more"
        if len(old.names) != len(new.names):
            return f"{role} has {len(new.names):,} {_unit(data, role)}s and had {len(old.names):,}"
    if list(before.label_names) != list(now.label_names):
        return _describe_classes(before.label_names, now.label_names)
    for role, old in before.splits.items():
        new = now.splits[role]
        renamed = np.flatnonzero(old.names != new.names)
        if len(renamed):
            return (
                f"{_count(renamed, data, role)} other names or another order, the first is now"
                f" {name_of_row(data, role, int(renamed[0]))}"
            )
        relabelled = np.flatnonzero(old.labels != new.labels)
        if len(relabelled):
            row = int(relabelled[0])
            first = f"{_count(relabelled, data, role)} other labels, the first, {name_of_row(data, role, row)}"
            if data.task.several:
                return f"{first}, is one of them"
            names = [now.label_names[split.labels[row]] for split in (new, old)]
            return f"{first}, is {names[0]} and was {names[1]}"
        if len(old.weights) == len(new.weights) and len(reweighted := np.flatnonzero(old.weights != new.weights)):
            return (
                f"{_count(reweighted, data, role)} other weights, the first is"
                f" {name_of_row(data, role, int(reweighted[0]))}"
            )
        differ = (old.contents != new.contents) & (old.contents != _UNREADABLE) & (new.contents != _UNREADABLE)
        known = {image.rpartition(" (")[0] for image in unreadable}
        changed = [row for row in np.flatnonzero(differ).tolist() if name_of_row(data, role, row) not in known]
        if changed:
            return f"{_count(changed, data, role)} other contents, the first is {name_of_row(data, role, changed[0])}"
    return None


def _describe_classes(before: Sequence[str], now: Sequence[str]) -> str:
    gone = [name for name in before if name not in now]
    added = [name for name in now if name not in before]
    if len(gone) == len(added) == 1:
        return f"the class {gone[0]} is called {added[0]}"
    if not gone and not added:
        return "the classes have another order"
    words = [
        f"{word} {listing(names, 3)}" for word, names in (("no longer has", gone), ("has the new", added)) if names
    ]
    return f"the dataset {' and '.join(words)} among its classes"


def _unit(data: ImageDataset, role: str) -> str:
    return "file" if isinstance(data.splits[role], StreamedSplit) else "image"


def _count(rows: Sequence[int] | npt.NDArray[np.int64], data: ImageDataset, role: str) -> str:
    unit = _unit(data, role)
    return f"1 {unit} of {role} has" if len(rows) == 1 else f"{len(rows):,} {unit}s of {role} have"


def name_of_row(data: ImageDataset, role: str, row: int) -> str:
    """Return an image's path below the dataset's folder, or its row; of a stream, the file's name.

    Args:
        data: The dataset.
        role: The role of a split.
        row: The row in the source's split, as `sample_index` has it; of a stream, the number of the file.
    """
    split = data.splits[role]
    if isinstance(split, StreamedSplit):
        return split.shards.files[row].name
    return shown_name(image_name(data.sources[role][int(row)]["image"]), data.folder, role, row)


def _hashes(texts: Iterator[bytes] | Sequence[bytes]) -> Codes:
    return np.fromiter(map(xxhash.xxh32_intdigest, texts), np.uint32)


def _names(paths: pa.ChunkedArray) -> Codes:
    """Hash paths without the folder that all of them share, so that it may be moved."""
    ends = pc.min_max(paths).as_py()
    if ends["min"] is None:
        return np.zeros(len(paths), np.uint32)
    prefix = os.path.commonprefix([ends["min"], ends["max"]])  # noqa: RUF071  # cut back to a folder below
    shared = len(prefix.rpartition("/")[0].encode())
    return _hashes([path[shared:] for path in pc.fill_null(paths, "").cast(pa.binary()).to_pylist()])


def _label_codes(labels: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return class ids as they are, and one hash for the classes of each row where there are several."""
    if labels.ndim == 1:
        return labels
    return _hashes([row.tobytes() for row in np.packbits(labels, axis=1)]).view(np.int32)


def _contents(source: Dataset) -> Codes:
    known = image_lengths(source)
    if known.null_count == len(known):  # files; those of a mixture with images inside the dataset are not read
        return _of_files(image_paths(source).to_pylist())
    # Chunk by chunk, because Arrow would make a copy of the whole column, and numpy another.
    lengths = [pc.fill_null(chunk, _UNREADABLE).to_numpy() for chunk in known.chunks]
    codes = np.concatenate(lengths, dtype=np.uint32, casting="unsafe")
    del known, lengths  # the memory for reading images below
    unreadable = codes == _UNREADABLE
    rows: Sequence[int] = range(len(codes))
    if codes.sum(dtype=np.int64) > _BYTES_READ:
        rows = np.unique(np.linspace(0, len(codes) - 1, _ROWS_READ).astype(np.int64)).tolist()
    images = RowsOf(source, "image")
    for start in range(0, len(rows), _CHUNK):  # few at a time, because each becomes an object
        part = np.array(rows[start : start + _CHUNK])
        codes[part] = _hashes([(image and image["bytes"]) or b"" for image in images.read(part)])
    codes[codes == _UNREADABLE] = 1
    codes[unreadable] = _UNREADABLE
    return codes


def _of_files(paths: Sequence[str | None]) -> Codes:
    """Return a code for each file, from its content or, for a part of many, from its size alone."""
    step = -(-len(paths) // _FILES_READ)
    codes = np.zeros(len(paths), np.uint32)

    def hash_rows(rows: npt.NDArray[np.int64]) -> None:
        for row in rows.tolist():
            codes[row] = _of_file(paths[row], whole=row % step == 0)

    bar = progress_bar(total=len(paths), desc="Comparing files", unit="image", delay=_SECONDS_BEFORE_BAR)
    with bar:
        for rows, _ in in_pieces(hash_rows, np.arange(len(paths))):
            bar.update(len(rows))
    return codes


def _of_file(path: str | None, whole: bool) -> int:
    try:
        if path is None:
            return _UNREADABLE
        if not whole:
            return os.stat(path).st_size % 2**32 or 1
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest = xxhash.xxh32(file.read(_PART), seed=size % 2**32)
            for place in ((size - _PART) // 2, size - _PART) if size > _PART else ():
                file.seek(max(place, _PART))
                digest.update(file.read(_PART))
            return digest.intdigest() or 1
    except OSError:
        return _UNREADABLE
