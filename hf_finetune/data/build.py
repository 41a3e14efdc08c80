"""The one way in: from `DataArguments`, or a dataset object, to splits that are ready for training and evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from datasets import Dataset, Sequence, Value

from hf_finetune.config.data import DataArguments
from hf_finetune.config.folds import parse_fold
from hf_finetune.data.catalog import DatasetEntry
from hf_finetune.data.columns import (
    are_files,
    find_columns_of_classes,
    find_image_column,
    find_label_column,
    image_dataset,
    index_array,
    label_array,
    refuse_labels,
)
from hf_finetune.data.dataset import EarlierImages, ImageDataset
from hf_finetune.data.duplicates import find_left_out
from hf_finetune.data.folds import Rows, fold_of_rows, group_split, note_shared_groups, read_groups
from hf_finetune.data.image_channels import find_channels
from hf_finetune.data.images.decoding import NO_SUCH_FILE
from hf_finetune.data.images.header_cache import HeaderCache
from hf_finetune.data.images.header_check import (
    check_headers,
    count_unused,
    describe_bad_image,
    describe_unreadable,
    list_bad_images,
)
from hf_finetune.data.images.value_range import find_values
from hf_finetune.data.label_sets import are_label_sets, map_label_sets
from hf_finetune.data.labels import Labels, map_labels, missing_classes
from hf_finetune.data.slices import read_slices
from hf_finetune.data.sources.in_memory import InMemoryDataset, read_objects
from hf_finetune.data.sources.open import open_source
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.splits import (
    ROLES,
    choose_splits,
    note_unused_splits,
    random_subset,
    reference_split,
    stratified_split,
)
from hf_finetune.data.streaming.build import load_streamed_dataset
from hf_finetune.data.weights import read_weights
from hf_finetune.errors import UserError, listing


def build_dataset(
    arguments: DataArguments,
    seed: int,
    *,
    dataset: InMemoryDataset | RawDataset | None = None,
    num_labels: int | None = None,
    require_train: bool = True,
    earlier: EarlierImages | None = None,
) -> ImageDataset:
    """Open, check and divide a dataset of any kind: files, the Hub, a stream of shards, or an object in memory.

    Args:
        arguments: Which dataset, and which of its splits and images are for what.
        seed: Decides which part of train is held out, and which images a limit keeps.
        dataset: An object to use instead of `arguments.dataset`, read already or not; see
            `sources.in_memory.read_objects`.
        num_labels: The number of classes that the user stated. Only streams need it, where their labels are the
            integers 0 to num_labels - 1 and nothing else says how many there are.
        require_train: Whether a split to train on must exist; an evaluation needs none.
        earlier: What an interrupted run recorded about its images, for the run that resumes it.

    Returns:
        The splits, with notes for the user.

    Raises:
        UserError: Anything that the user can fix.
    """
    if dataset is not None and arguments.dataset is not None:
        raise UserError(f"dataset is both an object and {arguments.dataset}; pass one of them.")
    if arguments.streaming:
        if dataset is not None:
            raise UserError("streaming: a dataset that is in memory is not streamed; leave it out.")
        return load_streamed_dataset(arguments, seed, num_labels, require_train)
    return load_image_dataset(arguments, seed, require_train, earlier, dataset)


def load_image_dataset(
    arguments: DataArguments,
    seed: int,
    require_train: bool = True,
    earlier: EarlierImages | None = None,
    dataset: InMemoryDataset | RawDataset | None = None,
) -> ImageDataset:
    """Open, check and divide a dataset that is not streamed; the arguments are those of `build_dataset`."""
    if dataset is not None:
        if arguments.label_from_name is not None:
            raise UserError("label_from_name is for a folder of images, and dataset is an object; leave it out.")
        raw, entry = dataset if isinstance(dataset, RawDataset) else read_objects(dataset), None
    else:
        raw, entry = open_source(arguments, earlier.lost_files if earlier else ())
    roles = choose_splits(raw, {role: getattr(arguments, f"{role}_split") for role in ROLES}, entry)
    reference = reference_split(raw, roles, require_train)
    for split in roles.values():
        if not len(raw.splits[split]):
            raise UserError(f"{raw.source}: split {split} has no images.")
    image_column, labels = _read_columns(raw, roles, reference, arguments, entry)

    result = ImageDataset({}, {}, labels.names, raw.source, entry, [*raw.notes, *labels.notes], task=labels.task)
    result.revision, result.folder = raw.revision, raw.folder
    result.notes += note_unused_splits(raw, roles)
    if entry is not None and len(labels.names) != entry.num_classes:
        result.notes.append(f"{entry.name} has {entry.num_classes:,} classes, but this copy {len(labels.names):,}.")
    _add_splits(result, raw, roles, image_column, labels)
    result.slices = read_slices(raw, roles, arguments.slice_columns or ())
    if arguments.weight_column is not None and "train" in roles:
        result.weights = read_weights(raw, roles["train"], arguments.weight_column)
    if earlier is not None:
        _check_counts(result, earlier)
    groups = read_groups(raw, roles, arguments.group_column) if arguments.group_column and "train" in roles else {}
    totals = _hold_out_validation(result, arguments, seed, groups)
    _limit(result, arguments, seed)
    find_channels(result, arguments.image_channels)
    _check_images(result, raw, arguments.on_bad_image, earlier, seed)
    # A resumed run leaves out what the run left out when it began, which `_check_images` has done, and no more.
    if require_train and earlier is None:
        _leave_out_duplicates(result, arguments.drop_duplicates)
    pa.default_memory_pool().release_unused()  # what converting and comparing the columns took
    _note_missing_classes(result, missing_classes(labels.ids[reference], labels.names))
    for role, rows in result.splits.items():
        if len(rows) != totals[role]:
            result.split_names[role] += f" ({len(rows):,} of {totals[role]:,})"
    return result


def _read_columns(
    raw: RawDataset, roles: dict[str, str], reference: str, arguments: DataArguments, entry: DatasetEntry | None
) -> tuple[str, Labels]:
    """Return the name of the image column, and the labels of all splits that have a role."""
    image_column = find_image_column(raw, reference, arguments.image_column, entry.image_column if entry else None)
    chosen = _label_columns(
        raw,
        reference,
        image_column,
        arguments,
        entry.label_column if entry else None,
    )
    label_columns: dict[str, list[str] | None] = {}
    for split in roles.values():
        columns = raw.splits[split].column_names
        if image_column not in columns:
            raise UserError(
                f"{raw.source}: split {split} has no column {image_column}, which holds the images of {reference};"
                f" it has {', '.join(columns)}."
            )
        label_columns[split] = chosen if set(chosen) <= set(columns) else None
    separator, strip = arguments.label_separator, arguments.label_strip
    if are_label_sets(raw, reference, chosen, separator):
        return image_column, map_label_sets(raw, label_columns, reference, separator, strip)
    only = {split: None if names is None else names[0] for split, names in label_columns.items()}
    return image_column, map_labels(raw, only, reference, strip)


def _label_columns(
    raw: RawDataset, split: str, image_column: str, arguments: DataArguments, expected: str | None
) -> list[str]:
    """Return the column of labels, or several that are one class each."""
    wanted = arguments.label_columns
    if wanted:
        return [find_label_column(raw, split, image_column, name) for name in wanted]
    uses = {"group_column": [arguments.group_column], "weight_column": [arguments.weight_column]}
    uses["slice_columns"] = [*(arguments.slice_columns or ())]
    for key, columns in uses.items():
        refuse_labels(raw, split, key, columns, expected)
    not_labels = [name for columns in uses.values() for name in columns if name is not None]
    found = find_columns_of_classes(raw, split, image_column, expected, not_labels)
    return found or [find_label_column(raw, split, image_column, None, expected, not_labels)]


def _add_splits(
    result: ImageDataset, raw: RawDataset, roles: dict[str, str], image_column: str, labels: Labels
) -> None:
    """Add the split of each role, with the columns `image`, `label` and `sample_index`."""
    for role, split in roles.items():
        if split in labels.unlabelled:
            result.notes.append(f"Split {split} is not used as {role}: it {labels.unlabelled[split]}.")
            continue
        images = image_dataset(raw, split, image_column)
        class_ids, column, kind = _as_column(labels.ids[split])
        labelled = images.add_column("label", column, feature=kind)
        numbers = np.arange(len(images), dtype=np.int32)
        result.splits[role] = labelled.add_column("sample_index", numbers, feature=Value("int32"))
        result.split_names[role] = split
        result.sources[role], result.source_labels[role] = images, class_ids


def _as_column(ids: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Any, Any]:
    """Return labels, the column of them, and its type: class ids, or a bit for each class."""
    if ids.ndim == 2:
        column = pa.FixedSizeListArray.from_arrays(pa.array(ids.ravel()), ids.shape[1])
        return ids, column, Sequence(Value("bool"), length=ids.shape[1])
    return ids, ids, Value("int32")


def _check_counts(result: ImageDataset, earlier: EarlierImages) -> None:
    """Raise `UserError` where the number of images has changed since the run began."""
    for role, count in earlier.counts.items():
        if role in result.sources and len(result.sources[role]) != count:
            raise UserError(
                f"{result.source}: {role} has {len(result.sources[role]):,} images, and had {count:,} when the run"
                " began; restore the original images, or use another --output_dir."
            )


def _hold_out_validation(
    result: ImageDataset, arguments: DataArguments, seed: int, groups: dict[str, Rows]
) -> dict[str, int]:
    """Hold out a part of train, a fold or where there is no validation split; return the images of each role."""
    if arguments.fold is not None and "validation" in result.splits:
        for by_role in (result.splits, result.sources, result.source_labels, result.slices):
            del by_role["validation"]
        result.notes.append(
            f"Split {result.split_names.pop('validation')} is not used: fold {arguments.fold} of train is validation."
        )
    totals = {role: len(rows) for role, rows in result.splits.items()}
    if "train" in result.splits:
        if groups:
            kept = {role: groups[role] for role in groups if role in result.splits}
            result.shared_groups = note_shared_groups(kept, str(arguments.group_column))
            result.notes += result.shared_groups
        if "validation" not in result.splits and (arguments.fold is not None or arguments.validation_fraction > 0):
            _divide_train(result, arguments, seed, groups.get("train"))
            totals["validation"] = len(result.splits["validation"])
        result.note_final_split()
    result.splits = {role: result.splits[role] for role in ROLES if role in result.splits}
    result.split_names = {role: result.split_names[role] for role in result.splits}
    return totals


def _divide_train(result: ImageDataset, arguments: DataArguments, seed: int, groups: Rows | None) -> None:
    train, fraction = result.splits["train"], arguments.validation_fraction
    labels = label_array(train)
    if arguments.fold is not None:
        number, folds = parse_fold(arguments.fold)
        in_fold = fold_of_rows(labels, groups, folds, seed) == number - 1
        kept, held_out = np.flatnonzero(~in_fold), np.flatnonzero(in_fold)
    elif groups is not None:
        kept, held_out = group_split(labels, groups, fraction, seed)
    else:
        kept, held_out = stratified_split(labels, fraction, seed)
    if not len(held_out):
        raise UserError(
            f"{result.source}: no class has two images, so none can be held out for validation; use"
            " --validation_fraction 0."
        )
    part = f"{100 * fraction:g} %" if arguments.fold is None else f"fold {arguments.fold}"
    whole = "" if groups is None else f", whole groups ({arguments.group_column})"
    name = f"{part} of {result.split_names['train']}, stratified{whole}, seed {seed}"
    images = f"{len(held_out):,} of {len(train):,} images"
    if arguments.fold is None:
        result.notes.append(f"There is no validation split: {images} are held out for it ({name}).")
    else:
        result.notes.append(f"Validation has {images} of train ({name}).")
    result.splits["validation"] = _select(train, held_out)
    result.sources["validation"] = result.sources["train"]
    result.source_labels["validation"] = result.source_labels["train"]
    result.slices["validation"] = result.slices["train"]
    result.split_names["validation"] = name
    result.splits["train"] = _select(train, kept)


def _note_missing_classes(result: ImageDataset, known: list[str]) -> None:
    """Add a note of the classes that a split lacks, of those that train has (or that exist, without train).

    Args:
        result: The splits as they are used: limited, and without unreadable images.
        known: The classes without a row in the split that defines the classes, which the user has been told.
    """
    names = result.label_names
    expected = set(names)
    for role, dataset in result.splits.items():
        absent = missing_classes(label_array(dataset), names)
        missing = [name for name in absent if name in expected and not (role == "train" and name in known)]
        if role == "train":
            expected -= set(absent)
        if missing:
            result.notes.append(
                f"{role} has no image of {len(missing):,} of {len(names):,} classes: {listing(missing)}."
            )


def _limit(result: ImageDataset, arguments: DataArguments, seed: int) -> None:
    for role, dataset in result.splits.items():
        limit = arguments.max_train_samples if role == "train" else arguments.max_eval_samples
        if limit is not None and limit < len(dataset):
            result.splits[role] = _select(dataset, random_subset(len(dataset), limit, seed))


def _check_images(
    result: ImageDataset, raw: RawDataset, on_bad_image: str, earlier: EarlierImages | None, seed: int
) -> None:
    """Read image headers, stop at unreadable images or leave them out, and find out sizes and numbers of bits.

    Every image that is a file of its own is checked. Images inside a dataset were written by one program, so a sample
    is enough, unless unreadable ones are to be left out.
    """
    sizes: set[tuple[int, int]] = set()
    complete, missing_files, unreadable_role = True, False, None
    cache = HeaderCache(str(raw.folder.absolute() if raw.folder else raw.source))
    for role, dataset in result.splits.items():
        files = are_files(dataset)
        known = cache if files and result.channels is None else None
        check = check_headers(dataset, on_bad_image == "skip" or files, known, result.channels)
        sizes |= check.sizes
        result.unused[role] = count_unused(check.headers)
        complete &= check.complete
        if check.wide_rows and result.wide_values is None:
            rows = check.wide_rows if check.complete else range(len(dataset))
            result.wide_values = find_values(dataset, rows, seed)
        bad_rows = sorted(check.bad_rows)
        if len(bad_rows) == len(dataset):
            unreadable_role = unreadable_role or role
        if not bad_rows and not (earlier and earlier.left_out.get(role)):
            continue
        sample_index = index_array(dataset)
        for row in bad_rows:
            error = check.bad_rows[row]
            missing_files |= error.reason == NO_SUCH_FILE
            result.bad_images.append(describe_bad_image(error, raw.folder, role, int(sample_index[row])))
        # An image that was lost after the run began keeps its row, so that the order of the others does not change.
        gone = bad_rows if earlier is None else np.flatnonzero(np.isin(sample_index, earlier.left_out.get(role, [])))
        result.left_out[role] = sample_index[gone].tolist()
        result.splits[role] = _select(dataset, np.setdiff1d(np.arange(len(dataset)), gone))
    cache.save()
    count = len(result.bad_images)
    if count and on_bad_image == "stop":
        hint = f' Relative paths start at the folder "{raw.folder}".' if missing_files else ""
        raise UserError(
            f"{raw.source}: {describe_unreadable(result.bad_images)}; fix or remove them, or use --on_bad_image skip."
            f"{hint}"
        )
    if unreadable_role is not None:
        raise UserError(
            f"{raw.source}: no image of {unreadable_role} can be read: {list_bad_images(result.bad_images)}."
        )
    if count:
        result.notes.append(f"{describe_unreadable(result.bad_images, left_out=True)}.")
    result.notes += result.unused_notes(result.splits)
    result.note_sizes(sizes, complete)


def _leave_out_duplicates(result: ImageDataset, drop: bool) -> None:
    left_out = find_left_out(result, drop)
    if left_out.any():
        train = result.splits["train"]
        sample_index = index_array(train)[left_out]
        result.left_out.setdefault("train", []).extend(sample_index.tolist())
        result.splits["train"] = _select(train, np.flatnonzero(~left_out))


def _select(dataset: Dataset, rows: npt.NDArray[np.int64]) -> Dataset:
    # Not by `Dataset.select`: it would write a file of row numbers beside the data, which may be read-only, or keep 8
    # bytes for each row in memory, and three times that for a moment.
    stored = rows if dataset._indices is None else dataset._indices.column(0).to_numpy()[rows]
    numbers = stored.astype(np.uint32)
    fingerprint = xxhash.xxh64_hexdigest(numbers.tobytes() + dataset._fingerprint.encode())
    indices = pa.table({"indices": numbers})
    return Dataset(dataset.data, dataset.info.copy(), dataset.split, indices, fingerprint)
