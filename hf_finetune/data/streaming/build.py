"""Opens a dataset in shards, and finds out its classes and numbers of rows without reading images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from hf_finetune.config.data import DataArguments
from hf_finetune.data.catalog import DatasetEntry
from hf_finetune.data.class_names import note_similar_names
from hf_finetune.data.columns import find_image_column, find_label_column, list_item
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.decoding import Header, UnreadableImage, read_header
from hf_finetune.data.images.header_check import count_unused, describe_bad_image
from hf_finetune.data.images.value_range import values_of
from hf_finetune.data.labels import UNLABELLED
from hf_finetune.data.sources.hub import hub_id_of, open_on_hub
from hf_finetune.data.sources.hub_copy import open_hub_copy
from hf_finetune.data.sources.open import describe_copy, find_source
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.sources.source import TARS
from hf_finetune.data.splits import ROLES, choose_splits, note_unused_splits, reference_split
from hf_finetune.data.streaming.class_ids import ClassIds, read_classes
from hf_finetune.data.streaming.label_sets import LabelSets, read_set_classes
from hf_finetune.data.streaming.shards import DAMAGE, DataFile, ParquetShards, find_file, is_temporary, read_schema
from hf_finetune.data.streaming.split import HoldOut, StreamedSplit
from hf_finetune.data.streaming.tars import TarShards, entry_of, first_sample, image_fields, stated_lengths
from hf_finetune.errors import UserError, first_line
from hf_finetune.tasks import ONE_LABEL, SEVERAL_LABELS

_SAMPLE = 64  # images of each split whose headers are checked


@dataclass(frozen=True)
class _Opened:
    """A dataset in shards.

    Attributes:
        files: The files of each split.
        features: The columns of each split, of `datasets`.
        tars: Whether the files are WebDataset tars, not Parquet.
        source: What messages call the dataset.
        commit: The commit of a dataset on the Hub, None for others.
    """

    files: Mapping[str, Sequence[DataFile]]
    features: Mapping[str, Features]
    tars: bool
    source: str
    commit: str | None


def load_streamed_dataset(
    arguments: DataArguments, seed: int, num_labels: int | None = None, require_train: bool = True
) -> ImageDataset:
    """Open and divide a dataset whose images are read during training.

    Only footers of Parquet files or headers of tars are read, the labels where nothing else defines the classes, and
    the first images. The arguments are those of `data.build.build_dataset`.
    """
    opened, entry = _open(arguments)
    # Empty splits with the same columns, in which the usual rules find images and labels.
    raw = RawDataset(
        {name: Dataset.from_dict({key: [] for key in kinds}, kinds) for name, kinds in opened.features.items()},
        opened.source,
    )
    roles = choose_splits(raw, {role: getattr(arguments, f"{role}_split") for role in ROLES}, entry)
    reference = reference_split(raw, roles, require_train)
    image_column = find_image_column(raw, reference, arguments.image_column, entry.image_column if entry else None)
    wanted = next(iter(arguments.label_columns), None)
    label_column = find_label_column(raw, reference, image_column, wanted, entry.label_column if entry else None)
    shards = {
        split: _shards(opened, split, image_column, label_column)
        for split in dict.fromkeys(roles.values())
        if label_column in opened.features[split] and image_column in opened.features[split]
    }
    if reference not in shards or not shards[reference].rows.sum():
        raise UserError(f"{raw.source}: split {reference} has no images.")
    if _hides_labels(shards[reference]):
        raise UserError(f"{raw.source}: split {reference} has no labels; nothing can be learned from it.")
    feature = opened.features[reference][label_column]
    strip = arguments.label_strip
    of_lists, own = list_item(feature) is not None, shards[reference]
    if of_lists:
        names, known = read_set_classes(raw.source, reference, feature, own, num_labels, strip)
    else:
        names, known = read_classes(raw.source, reference, feature, own, num_labels, strip)

    result = ImageDataset({}, {}, names, raw.source, entry, task=SEVERAL_LABELS if of_lists else ONE_LABEL)
    result.revision = opened.commit
    result.notes += note_unused_splits(raw, roles) + note_similar_names(names)
    for role, split in roles.items():
        if split not in shards:
            result.notes.append(f"Split {split} is not used as {role}: it has no column {label_column}.")
        elif _hides_labels(shards[split]):
            result.notes.append(f"Split {split} is not used as {role}: it has no labels (those of its first rows).")
        else:
            feature = opened.features[split][label_column]
            item = list_item(feature)
            if of_lists != (item is not None):
                raise UserError(
                    f"{raw.source}: {label_column} is of lists in one split and not in another; use one kind."
                )
            ids = ClassIds(raw.source, split, item or feature, known, reference, strip)
            to_class_ids = LabelSets(ids) if of_lists else ids
            name = f"{raw.source}: split {split}"
            result.splits[role] = StreamedSplit(shards[split], to_class_ids, name, arguments.shuffle_buffer_size)
            result.split_names[role] = split
    _divide(result, arguments, seed)
    _look_at_first_images(result, arguments.on_bad_image)
    if require_train and len(set(result.split_names.values())) > 1:
        result.notes.append("Streamed images are not searched for the same image in two splits.")
    return result


def _open(arguments: DataArguments) -> tuple[_Opened, DatasetEntry | None]:
    """Find the files of a dataset's splits."""
    path, entry = find_source(arguments)
    commit: str | None = None
    load = datasets.load_dataset_builder
    if path is not None:
        source = describe_copy(arguments, entry) if arguments.dataset_path else str(path)
        if path.is_dir():
            builder = open_hub_copy(path, arguments.dataset_config, entry, load)
        else:
            name = path.name.lower()
            kind = "webdataset" if name.endswith(TARS) else "parquet" if name.endswith(".parquet") else None
            if kind is None:
                raise _not_in_shards(source, arguments)
            builder = load(kind, data_files={"train": [str(path.absolute())]})
    elif entry is not None and entry.hub_id is None:
        raise UserError(f"streaming: {entry.name} is built in and fits into memory; leave --streaming out.")
    else:
        source = hub_id_of(arguments.dataset or "", entry)
        builder, commit = open_on_hub(
            arguments.dataset or "", entry, arguments.dataset_config, arguments.dataset_revision, load
        )
    if not isinstance(builder, Parquet | WebDataset):
        raise _not_in_shards(source, arguments)
    with _reading(source):
        files = {
            str(split): [find_file(url) for url in urls] for split, urls in (builder.config.data_files or {}).items()
        }
        features = {
            split: _tar_features(builder.info.features, split_files, next(iter(arguments.label_columns), None))
            if isinstance(builder, WebDataset)
            else _features(builder.info.features, split_files)
            for split, split_files in files.items()
        }
    return _Opened(files, features, isinstance(builder, WebDataset), source, commit), entry


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn errors of reading a dataset's files into a `UserError`."""
    try:
        yield
    except Exception as error:  # network clients and Arrow share no class of errors
        if isinstance(error, UserError) or not (is_temporary(error) or isinstance(error, (*DAMAGE, ValueError))):
            raise
        raise UserError(f"{name} cannot be read: {first_line(error)}.") from error


def _not_in_shards(source: str, arguments: DataArguments) -> UserError:
    advice = "leave --streaming out"
    if arguments.dataset_path is None and not Path(arguments.dataset or "").expanduser().exists():
        advice += ", or take what the Hub made of it: --dataset_revision refs/convert/parquet"
    return UserError(
        f"streaming: {source} is neither in Parquet files nor in WebDataset tars (.tar, .tar.gz); {advice}."
    )


def _features(stated: Features | None, files: Sequence[DataFile]) -> Features:
    """Return the columns of Parquet files, with the types of the dataset card or else of the first file."""
    found = Features.from_arrow_schema(read_schema(files[0]))
    return Features({name: (stated or {}).get(name, feature) for name, feature in found.items()})


def _tar_features(stated: Features | None, files: Sequence[DataFile], wanted: str | None) -> Features:
    """Return the fields of images in the samples of tars, and the one field of labels.

    That is `wanted`; else .cls, the entry "labels" of .json if it is a list and there is no "label", its entry "label",
    or .txt. Where there is a .cls, the others describe more than the class.
    """
    sample = first_sample(files[0], wanted or "json")
    if sample is None:
        raise ValueError(f"{files[0].name} has no members that are named like 0001.jpg and 0001.cls")
    found: dict[str, Any] = {field: datasets.Image() for field in image_fields(sample)}
    has_lists = entry_of(sample, "json.label") is None and isinstance(entry_of(sample, "json.labels"), list)
    labels = {"cls": "cls", "json.labels" if has_lists else "json.label": "json", "txt": "txt"}
    if wanted is not None:
        labels = {wanted: wanted.partition(".")[0]}
    for field, extension in labels.items():
        if extension in sample.members:
            of_lists = isinstance(entry_of(sample, field), list)
            plain = datasets.Value("string")
            found[field] = (stated or {}).get(field, datasets.Sequence(plain) if of_lists else plain)
            break
    return Features(found)


def _shards(opened: _Opened, split: str, image_column: str, label_column: str) -> ParquetShards | TarShards:
    files = opened.files[split]
    with _reading(f"{opened.source}: split {split}"):
        if not opened.tars:
            return ParquetShards(files, image_column, label_column)
        if not all(file.is_local for file in files) and stated_lengths(files) is None:
            raise UserError(
                f"{opened.source}: how many images the tars of {split} hold is not known before they are read; put"
                f' _info.json beside them, {{"splits": {{"{split}": {{"filenames": [...],'
                ' "shard_lengths": [...]}}}, or download them first.'
            )
        of_lists = list_item(opened.features[split][label_column]) is not None
        return TarShards(files, image_column, label_column, of_lists)


def _hides_labels(shards: ParquetShards | TarShards) -> bool:
    """Whether the labels of a split are hidden, as those of many test splits are, to go by its first rows."""
    filled = np.flatnonzero(shards.rows)
    if not len(filled):
        return True
    _, labels = next(shards.read(int(filled[0]), 0))
    hidden = pc.is_null(labels)
    if pa.types.is_integer(labels.type):
        hidden = pc.or_(hidden, pc.fill_null(pc.equal(labels, UNLABELLED), True))
    return bool(pc.all(hidden).as_py())


def _divide(result: ImageDataset, arguments: DataArguments, seed: int) -> None:
    """Hold out a part of train where there is no validation split, and apply the limits."""
    train = result.splits.get("train")
    if train is not None:
        if "validation" not in result.splits and arguments.validation_fraction > 0:
            fraction, total = arguments.validation_fraction, len(train)
            kept, held_out = (replace(train, hold_out=HoldOut(fraction, seed, taken)) for taken in (False, True))
            if not len(held_out) or not len(kept):
                raise UserError(
                    f"{result.source}: {total:,} images are too few to hold out {100 * fraction:g} % for validation;"
                    " use --validation_fraction 0."
                )
            name = f"{100 * fraction:g} % of {result.split_names['train']}, drawn image by image, seed {seed}"
            result.notes.append(
                f"There is no validation split: {len(held_out):,} of {total:,} images are held out for it ({name})."
                " They are not stratified, and to evaluate on them all shards of train are read."
            )
            result.splits["train"], result.splits["validation"] = kept, held_out
            result.split_names["validation"] = name
        result.note_final_split()
    result.splits = {role: result.splits[role] for role in ROLES if role in result.splits}
    result.split_names = {role: result.split_names[role] for role in result.splits}
    for role, split in result.splits.items():
        limit, total = arguments.max_train_samples if role == "train" else arguments.max_eval_samples, len(split)
        if limit is not None and limit < total:
            shards = split.limit(limit, seed)
            result.split_names[role] += f" ({limit:,} of {total:,}, from {shards:,} of {len(split.counts):,} shards)"


def _look_at_first_images(result: ImageDataset, on_bad_image: str) -> None:
    """Read the headers of a few images of each split, to report mistakes early and to find out sizes and bits.

    That all images have the size of the sample is only assumed where the catalog says so.
    """
    sizes: set[tuple[int, int]] = set()
    for role, split in result.splits.items():
        headers: Counter[Header] = Counter()
        shard = int(np.flatnonzero(split.counts)[0])
        wide = []
        for _, row in zip(range(_SAMPLE), split.read(shard), strict=False):
            try:
                header = read_header(row.image)
                headers[header] += 1
                if header.wide:
                    wide.append(row.image)
            except UnreadableImage as error:
                if on_bad_image == "stop":
                    bad = describe_bad_image(error, None, role, row.sample_index)
                    raise UserError(
                        f"{result.source}: an image cannot be read: {bad}; fix or remove it, or use --on_bad_image"
                        " skip."
                    ) from error
        sizes |= {header.size for header in headers}
        result.unused[role] = count_unused(headers)
        result.wide_values = result.wide_values or values_of(wide)
    result.notes += result.unused_notes(result.splits)
    result.note_sizes(sizes, complete=False)
