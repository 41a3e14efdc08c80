"""The entry. From `DataArguments` to splits of one shape, whatever the source was."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from hf_finetune.config.data import DataArguments
from hf_finetune.data.catalog import DatasetEntry
from hf_finetune.data.columns import are_files, arrow_column, find_image_column, find_label_column, image_dataset
from hf_finetune.data.dataset import EarlierImages, ImageDataset
from hf_finetune.data.images.decoding import NO_SUCH_FILE
from hf_finetune.data.images.header_check import check_headers, describe_bad_image
from hf_finetune.data.labels import Labels, map_labels, missing_classes
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
from hf_finetune.errors import UserError, listing


def load_image_dataset(
    arguments: DataArguments,
    seed: int,
    require_train: bool = True,
    earlier: EarlierImages | None = None,
    given: RawDataset | None = None,
) -> ImageDataset:
    """Opens, checks and divides a dataset.

    `seed` decides which part of train is held out and which images a limit leaves. Evaluation alone may do without
    train (`require_train=False`). A resumed run leaves out what it did when it began (`earlier`) and no more. `given`
    is a dataset that is open already, in the place of the one that the arguments name. Raises `UserError` for everything
    that the user can fix.
    """
    if given is not None:
        raw, entry = given, None
    else:
        raw, entry = open_source(arguments, earlier.lost_files if earlier else ())
    roles = choose_splits(raw, {role: getattr(arguments, f"{role}_split") for role in ROLES}, entry)
    reference = reference_split(raw, roles, require_train)
    for split in roles.values():
        if not len(raw.splits[split]):
            raise UserError(f"{raw.source}: split {split} has no images.")
    image_column, labels = _read_columns(raw, roles, reference, arguments, entry)

    result = ImageDataset({}, {}, labels.names, raw.source, entry, [*raw.notes, *labels.notes])
    result.revision, result.folder = raw.revision, raw.folder
    result.notes += note_unused_splits(raw, roles)
    if entry is not None and len(labels.names) != entry.num_classes:
        result.notes.append(f"{entry.name} has {entry.num_classes:,} classes, but this copy {len(labels.names):,}.")
    for role, split in roles.items():
        if split in labels.unlabelled:
            result.notes.append(f"Split {split} is not used as {role}: it {labels.unlabelled[split]}.")
            continue
        images = image_dataset(raw, split, image_column)
        # The only thing in memory that grows with the rows, so it is kept small.
        labelled = images.add_column("label", labels.ids[split].astype(np.int32), feature=Value("int32"))
        numbers = np.arange(len(images), dtype=np.int32)
        result.splits[role] = labelled.add_column("sample_index", numbers, feature=Value("int32"))
        result.split_names[role] = split
        result.sources[role] = images

    for role, count in earlier.counts.items() if earlier else ():
        if role in result.sources and len(result.sources[role]) != count:
            raise UserError(
                f"{raw.source}: {role} has {len(result.sources[role]):,} images, and had {count:,} when the run"
                " began; make it as it was, or use another --output_dir."
            )
    totals = {role: len(dataset) for role, dataset in result.splits.items()}
    if "train" in result.splits:
        if "validation" not in result.splits and arguments.validation_fraction > 0:
            _hold_out_validation(result, arguments.validation_fraction, seed)
            totals["validation"] = len(result.splits["validation"])
        note_what_reports(result)
    pa.default_memory_pool().release_unused()  # what converting and comparing the columns has taken
    result.splits = {role: result.splits[role] for role in ROLES if role in result.splits}
    result.split_names = {role: result.split_names[role] for role in result.splits}
    _note_missing_classes(result)
    _limit(result, arguments, seed)
    _check_images(result, raw, arguments.on_bad_image, earlier)
    for role, dataset in result.splits.items():
        if len(dataset) != totals[role]:
            result.split_names[role] += f" ({len(dataset):,} of {totals[role]:,})"
    return result


def _read_columns(
    raw: RawDataset, roles: dict[str, str], reference: str, arguments: DataArguments, entry: DatasetEntry | None
) -> tuple[str, Labels]:
    """Returns the name of the image column and the labels of all splits that have a role."""
    image_column = find_image_column(raw, reference, arguments.image_column, entry.image_column if entry else None)
    label_column = find_label_column(
        raw, reference, image_column, arguments.label_column, entry.label_column if entry else None
    )
    label_columns: dict[str, str | None] = {}
    for split in roles.values():
        columns = raw.splits[split].column_names
        if image_column not in columns:
            raise UserError(
                f"{raw.source}: split {split} has no column {image_column}, which holds the images of {reference};"
                f" it has {', '.join(columns)}."
            )
        label_columns[split] = label_column if label_column in columns else None
    return image_column, map_labels(raw, label_columns, reference)


def _hold_out_validation(result: ImageDataset, fraction: float, seed: int) -> None:
    train = result.splits["train"]
    kept, held_out = stratified_split(_class_ids(train), fraction, seed)
    if not len(held_out):
        raise UserError(
            f"{result.source}: no class has two images, so none can be held out for validation; use"
            " --validation_fraction 0."
        )
    name = f"{100 * fraction:g} % of {result.split_names['train']}, stratified, seed {seed}"
    result.notes.append(
        f"There is no validation split: {len(held_out):,} of {len(train):,} images are held out for it ({name})."
    )
    result.splits["validation"] = _select(train, held_out)
    result.sources["validation"] = result.sources["train"]
    result.split_names["validation"] = name
    result.splits["train"] = _select(train, kept)


def note_what_reports(result: ImageDataset) -> None:
    """Says aloud where the split that reports is not one that nothing was chosen by."""
    names = result.split_names
    for first, second in combinations(names, 2):
        if names[first] == names[second]:
            result.notes.append(f"{first} and {second} are the same images: both are split {names[first]}.")
    if "test" not in names and "validation" in names:
        result.notes.append(
            "There is no test split: the final figure is reported on validation, which also chose the checkpoint."
        )
    elif "validation" not in names:
        what = "the last checkpoint is the result" if "test" in names else "no figure can be reported"
        result.notes.append(f"There is no validation split and validation_fraction is 0: {what}.")


def _note_missing_classes(result: ImageDataset) -> None:
    """Names the classes of train (or of all, without train) that another split lacks."""
    names = result.label_names
    expected = set(names)
    if "train" in result.splits:
        expected -= set(missing_classes(_class_ids(result.splits["train"]), names))
    for role, dataset in result.splits.items():
        missing = [name for name in missing_classes(_class_ids(dataset), names) if name in expected]
        if missing:
            result.notes.append(
                f"{role} has no image of {len(missing):,} of {len(names):,} classes: {listing(missing)}."
            )


def _limit(result: ImageDataset, arguments: DataArguments, seed: int) -> None:
    for role, dataset in result.splits.items():
        limit = arguments.max_train_samples if role == "train" else arguments.max_eval_samples
        if limit is not None and limit < len(dataset):
            result.splits[role] = _select(dataset, random_subset(len(dataset), limit, seed))


def _check_images(result: ImageDataset, raw: RawDataset, on_bad_image: str, earlier: EarlierImages | None) -> None:
    """Looks at the headers; stops at unreadable images or leaves them out, and finds out whether all have one size.

    Files of their own are all looked at. Images inside a dataset came through a program, so a sample will do, unless
    unreadable ones are to be left out.
    """
    sizes: set[tuple[int, int]] = set()
    complete, missing_files, unreadable_role = True, False, None
    for role, dataset in result.splits.items():
        check = check_headers(dataset, every=on_bad_image == "skip" or are_files(dataset))
        sizes |= check.sizes
        complete &= check.complete
        bad_rows = sorted(check.bad_rows)
        if len(bad_rows) == len(dataset):
            unreadable_role = unreadable_role or role
        if not bad_rows and not (earlier and earlier.left_out.get(role)):
            continue
        sample_index = arrow_column(dataset, "sample_index").to_numpy()
        for row in bad_rows:
            error = check.bad_rows[row]
            missing_files |= error.reason == NO_SUCH_FILE
            result.bad_images.append(describe_bad_image(error, raw.folder, role, int(sample_index[row])))
        # An image that is lost since the run began keeps its row, or all others would come in another order.
        gone = bad_rows if earlier is None else np.flatnonzero(np.isin(sample_index, earlier.left_out.get(role, [])))
        result.left_out[role] = sample_index[gone].tolist()
        result.splits[role] = _select(dataset, np.setdiff1d(np.arange(len(dataset)), gone))
    count = len(result.bad_images)
    images = f"{count:,} image{'' if count == 1 else 's'}"
    if count and on_bad_image == "stop":
        hint = f' Relative paths start at the folder "{raw.folder}".' if missing_files else ""
        raise UserError(
            f"{raw.source}: {images} cannot be read: {listing(result.bad_images)}; fix or remove them, or use"
            f" --on_bad_image skip.{hint}"
        )
    if unreadable_role is not None:
        raise UserError(f"{raw.source}: no image of {unreadable_role} can be read: {listing(result.bad_images)}.")
    if count:
        result.notes.append(
            f"{images} cannot be read and {'is' if count == 1 else 'are'} left out: {listing(result.bad_images)}."
        )
    # A sample alone proves nothing: one image of another size among a million would break its batch.
    if len(sizes) == 1 and (complete or (result.entry is not None and sizes == {result.entry.image_size})):
        result.image_sizes = sizes.pop()


def _class_ids(dataset: Dataset) -> np.ndarray:
    return arrow_column(dataset, "label").to_numpy()


def _select(dataset: Dataset, rows: np.ndarray) -> Dataset:
    # In memory, because the file of row numbers would be written beside the data, which may be read-only.
    return dataset.select(rows, keep_in_memory=True)
