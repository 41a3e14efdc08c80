"""WebDataset tars as shards. A sample's members follow each other and share their name up to its first dot.

A tar does not say how many samples it has. Its headers are read once, with the labels, and what they say is kept in the
cache folder of `datasets`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from hf_finetune.data.images.decoding import IMAGE_EXTENSIONS
from hf_finetune.data.streaming.shards import DataFile, in_threads, read_text

_LENGTHS_FILES = ("_info.json", "info.json")  # timm's, beside tars: the number of samples of each


class TarSample(NamedTuple):
    """The members of a tar that belong to one sample: what its names begin with, and the members by what is left."""

    key: str
    members: dict[str, tarfile.TarInfo]


@dataclass(frozen=True)
class LabelSurvey:
    """What was found in a file: the number of samples, the different labels, and the first sample that lacks one."""

    samples: int
    labels: list[int | str]
    first_without: int | None


@dataclass
class TarShards:
    """WebDataset tars as shards.

    `image_field` is the extension of the images; `label_field` that of the labels, where json.NAME is an entry of a
    JSON object.
    """

    files: Sequence[DataFile]
    image_field: str
    label_field: str
    rows: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        lengths = stated_lengths(self.files)
        self.rows = np.array([survey.samples for survey in self.surveys] if lengths is None else lengths, np.int64)

    @cached_property
    def surveys(self) -> list[LabelSurvey]:
        """What each tar holds. Images are passed over, which only a file on this machine allows."""
        survey = partial(_survey_once, label_field=self.label_field)
        return list(in_threads(survey, self.files, "Counting images"))

    def read(self, shard: int, first: int) -> Iterator[tuple[list[dict[str, Any]], pa.Array]]:
        file = self.files[shard]
        with file.open() as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for number, sample in enumerate(iterate_samples(tar)):
                if number >= first:
                    content = _content(tar, sample, self.image_field)
                    image = {"bytes": content, "path": f"{file.name}/{sample.key}.{self.image_field}"}
                    yield [image], pa.array([_label(tar, sample, self.label_field)])


def first_sample(file: DataFile) -> TarSample | None:
    """Returns the first sample of a tar, None where there is none."""
    with file.open() as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        return next(iterate_samples(tar), None)


def iterate_samples(tar: tarfile.TarFile) -> Iterator[TarSample]:
    """Yields the samples of a WebDataset tar in their order."""
    sample: TarSample | None = None
    while (member := tar.next()) is not None:
        tar.members = []  # the list of all members that a TarFile keeps
        match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", member.name)
        if not member.isfile() or match is None:
            continue
        key, extension = match[1], match[2].lower()
        if sample is not None and sample.key != key:
            yield sample
            sample = None
        if sample is None:
            sample = TarSample(key, {})
        sample.members[extension] = member
    if sample is not None:
        yield sample


def image_fields(sample: TarSample) -> list[str]:
    return [extension for extension in sample.members if f".{extension}" in IMAGE_EXTENSIONS]


def stated_lengths(files: Sequence[DataFile]) -> list[int] | None:
    """Returns the numbers of samples of tars from the file that timm's tools write beside them, None without it."""
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


def _survey_once(file: DataFile, label_field: str) -> LabelSurvey:
    """Returns the survey of a tar that is in the cache, or makes it and puts it there."""
    changed = os.stat(file.url).st_mtime_ns if file.is_local else 0  # a URL of the Hub names a commit
    key = hashlib.sha256(repr((file, changed, label_field)).encode()).hexdigest()[:32]
    kept = Path(datasets.config.HF_DATASETS_CACHE, "hf_finetune", f"tar-{key}.json")
    try:
        return LabelSurvey(**json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        survey = _survey(file, label_field)
    unfinished = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
    with suppress(OSError):  # a cache that is full or may not be written is none
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(json.dumps(asdict(survey)), encoding="utf-8")
            os.replace(unfinished, kept)
        finally:
            unfinished.unlink(missing_ok=True)
    return survey


def _survey(file: DataFile, label_field: str) -> LabelSurvey:
    samples, labels, first_without = 0, set(), None
    with file.open() as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for sample in iterate_samples(tar):
            label = _label(tar, sample, label_field)
            if label in (None, "") and first_without is None:
                first_without = samples
            labels.add(label)
            samples += 1
    return LabelSurvey(samples, sorted(labels - {None, ""}, key=str), first_without)


def _content(tar: tarfile.TarFile, sample: TarSample, extension: str) -> bytes | None:
    member = sample.members.get(extension)
    stream = None if member is None else tar.extractfile(member)
    return None if stream is None else stream.read()


def _label(tar: tarfile.TarFile, sample: TarSample, label_field: str) -> int | str | None:
    """Returns a label as it stands there: a whole number or text; None where there is neither."""
    extension, _, entry = label_field.partition(".")
    content = _content(tar, sample, extension)
    if content is None:
        return None
    text = content.decode("utf-8", errors="replace").strip()
    if entry:
        try:
            value = json.loads(text)
        except ValueError:
            return None
        value = value.get(entry) if isinstance(value, dict) else None
        return value if isinstance(value, int | str) and not isinstance(value, bool) else None
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else text
