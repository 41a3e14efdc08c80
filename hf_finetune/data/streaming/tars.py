"""WebDataset tars as shards. The members of a sample follow each other and share their name up to its first dot.

A tar does not state its number of samples. Its headers and labels are read once, and the result is kept in the cache
folder of `datasets`. Members are read in their order, never backwards, so that a compressed tar is unpacked as it is
read.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from hf_finetune.data.images.decoding import IMAGE_EXTENSIONS
from hf_finetune.data.streaming.shards import DataFile, in_threads, read_text
from hf_finetune.errors import UserError, first_line
from hf_finetune.whole_files import keep_text

_LENGTHS_FILES = ("_info.json", "info.json")  # written beside tars by timm's tools: the number of samples of each
# How compressed files begin, and what unpacks them.
_COMPRESSED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # which Python cannot unpack before 3.14
_LARGEST_MEMBER = 2**30  # bytes; no image or label has as many, but a compressed tar may claim them


class TarSample(NamedTuple):
    """The members of a tar that belong to one sample.

    Attributes:
        key: The common part of their names.
        members: The members by extension, in lower case.
        contents: What those members hold that were asked for, by extension.
    """

    key: str
    members: dict[str, tarfile.TarInfo]
    contents: dict[str, bytes]


@dataclass(frozen=True)
class LabelSurvey:
    """What was found in a file.

    Attributes:
        samples: The number of samples.
        labels: The distinct labels, or of lists their items, sorted.
        first_without: The number of the first sample without a label, None where all have one.
    """

    samples: int
    labels: list[int | str]
    first_without: int | None


@dataclass
class TarShards:
    """WebDataset tars as shards; see `shards.Shards`.

    Attributes:
        image_field: The extension of the images.
        label_field: The extension of the labels; json.NAME stands for an entry of a JSON object.
        of_lists: Whether a label is a list, of the classes that an image has.
    """

    files: Sequence[DataFile]
    image_field: str
    label_field: str
    of_lists: bool = False
    rows: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        lengths = stated_lengths(self.files)
        self.rows = np.array([survey.samples for survey in self.surveys] if lengths is None else lengths, np.int64)

    @cached_property
    def surveys(self) -> list[LabelSurvey]:
        """The survey of each tar. Images are skipped, which is only possible in files on this machine."""
        survey = partial(_survey_once, label_field=self.label_field, of_lists=self.of_lists)
        return list(in_threads(survey, self.files, "Counting images"))

    def read(self, shard: int, first: int) -> Iterator[tuple[list[dict[str, Any]], pa.Array]]:
        """Yield the samples of a tar from number `first` on; see `shards.Shards.read`."""
        file = self.files[shard]
        wanted = (self.image_field, _label_extension(self.label_field))
        with _open_tar(file) as tar:
            for number, sample in enumerate(iterate_samples(tar, wanted, first)):
                if number >= first:
                    content = sample.contents.get(self.image_field)
                    image = {"bytes": content, "path": f"{file.name}/{sample.key}.{self.image_field}"}
                    yield [image], pa.array([_label(sample, self.label_field, self.of_lists)])


def first_sample(file: DataFile, label_field: str = "json") -> TarSample | None:
    """Return the first sample of a tar with the content of one member, or None where there is no sample."""
    with _open_tar(file) as tar:
        return next(iterate_samples(tar, [_label_extension(label_field)]), None)


@contextmanager
def _open_tar(file: DataFile) -> Iterator[tarfile.TarFile]:
    with file.open() as stream:
        try:
            with tarfile.open(fileobj=_unpacked(file, stream), mode="r:") as tar:
                yield tar
        except (EOFError, lzma.LZMAError, tarfile.ReadError, zlib.error) as error:
            raise tarfile.ReadError(f"{file.name}: {first_line(error)}") from error


def _unpacked(file: DataFile, stream: BinaryIO) -> Any:
    """Return what unpacks a compressed file as it is read; a file that is not compressed as it is."""
    beginning = stream.read(8)
    stream.seek(0)
    if beginning.startswith(_ZSTANDARD):
        raise UserError(f"{file.name} is compressed with Zstandard; unpack it to a .tar: unzstd {file.name}")
    unpack = next((unpack for magic, unpack in _COMPRESSED.items() if beginning.startswith(magic)), None)
    return stream if unpack is None else unpack(stream)


def iterate_samples(tar: tarfile.TarFile, wanted: Collection[str] = (), first: int = 0) -> Iterator[TarSample]:
    """Yield the samples of a WebDataset tar in their order.

    Args:
        tar: The tar.
        wanted: Extensions of the members whose contents are read.
        first: The number of the first sample of which they are.
    """
    sample: TarSample | None = None
    number = -1
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # a TarFile would keep all members in memory
        match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", member.name)
        if not member.isfile() or match is None:
            continue
        key, extension = match[1], match[2].lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample, number = TarSample(key, {}, {}), number + 1
        sample.members[extension] = member
        if extension in wanted and number >= first:
            sample.contents[extension] = _content(tar, member)
    if sample is not None:
        yield sample


def image_fields(sample: TarSample) -> list[str]:
    """Return the extensions of a sample's members that are images.

    Raises:
        UserError: The names of the images have further dots, so that members of one sample do not belong together.
    """
    fields = [extension for extension in sample.members if f".{extension}" in IMAGE_EXTENSIONS]
    dotted = [member.name for extension, member in sample.members.items() if extension.endswith(IMAGE_EXTENSIONS)]
    if not fields and dotted:
        name = os.path.basename(dotted[0])
        stem, extension = os.path.splitext(name)
        better = f"{stem.replace('.', '_')}{extension}"
        raise UserError(
            f"{dotted[0]}: the members of a sample share their name up to its first dot, which is {name.split('.')[0]}"
            f" here; write the tar again without further dots in the names of its members, such as {better}."
        )
    return fields


def stated_lengths(files: Sequence[DataFile]) -> list[int] | None:
    """Return the number of samples of each tar from the file that timm's tools write beside them; None without it."""
    folder = files[0].url.rsplit("/", 1)[0]
    for name in _LENGTHS_FILES:
        text = read_text(f"{folder}/{name}")
        if text is None:
            continue
        try:
            lengths = {
                Path(file).name: int(length)
                for split in json.loads(text)["splits"].values()
                for file, length in zip(split["filenames"], split["shard_lengths"], strict=True)
            }
            return [lengths[file.name] for file in files]
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return None


def _survey_once(file: DataFile, label_field: str, of_lists: bool) -> LabelSurvey:
    """Return the survey of a tar from the cache, or make it and put it there."""
    changed = (
        os.stat(file.url).st_mtime_ns if file.is_local else 0
    )  # a URL of the Hub names a commit, which never changes
    subject = (file, changed, label_field, "lists") if of_lists else (file, changed, label_field)
    key = hashlib.sha256(repr(subject).encode()).hexdigest()[:32]
    kept = Path(datasets.config.HF_DATASETS_CACHE, "hf_finetune", f"tar-{key}.json")
    try:
        return LabelSurvey(**json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        survey = _survey(file, label_field, of_lists)
    keep_text(kept, json.dumps(asdict(survey)))
    return survey


def _survey(file: DataFile, label_field: str, of_lists: bool) -> LabelSurvey:
    samples = 0
    labels: set[int | str] = set()
    first_without: int | None = None
    with _open_tar(file) as tar:
        for sample in iterate_samples(tar, [_label_extension(label_field)]):
            label = _label(sample, label_field, of_lists)
            if isinstance(label, list):
                labels.update(label)
            elif label is not None and label != "":
                labels.add(label)
            elif first_without is None:
                first_without = samples
            samples += 1
    return LabelSurvey(samples, sorted(labels, key=str), first_without)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST_MEMBER:
        raise tarfile.ReadError(f"{member.name} has {member.size:,} bytes, which is no image and no label")
    stream = tar.extractfile(member)
    return b"" if stream is None else stream.read()


def _label_extension(label_field: str) -> str:
    return label_field.partition(".")[0]


def entry_of(sample: TarSample, label_field: str) -> Any:
    """Return what json.NAME stands for, an entry of a sample's JSON object; None where there is none."""
    extension, _, entry = label_field.partition(".")
    try:
        value = json.loads(sample.contents[extension].decode("utf-8", errors="replace"))
    except (KeyError, ValueError):
        return None
    return value.get(entry) if isinstance(value, dict) else None


def _label(sample: TarSample, label_field: str, of_lists: bool) -> int | str | list[int] | list[str] | None:
    """Return a label as it is stored, an integer, a text or a list of one of these, or None where there is none."""
    if "." in label_field:
        value = entry_of(sample, label_field)
        if of_lists:
            kinds = {type(item) for item in value} if isinstance(value, list) else {None}
            return value if len(kinds) < 2 and kinds <= {int, str} else None
        return value if isinstance(value, int | str) and not isinstance(value, bool) else None
    content = sample.contents.get(_label_extension(label_field))
    if content is None:
        return None
    text = content.decode("utf-8", errors="replace").strip()
    return int(text) if re.fullmatch(r"0|-?[1-9]\d{0,17}", text) else text  # 01 and 1 may be two classes
