"""Folds of train, groups that stay together, and the mistakes of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset
from sklearn.model_selection import StratifiedGroupKFold

from hf_finetune.config.data import DataArguments
from hf_finetune.config.folds import parse_fold
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.folds import fold_of_rows, group_split, read_groups
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.permutation(np.repeat([0, 1, 2], [50, 30, 21]))
GROUPS = GENERATOR.integers(0, 25, len(LABELS))


def test_folds_have_each_row_once_and_the_shares_of_the_classes():
    folds = fold_of_rows(LABELS, None, 5, seed=7)
    for class_id in range(3):
        counts = np.bincount(folds[class_id == LABELS], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert set(np.bincount(folds)) == {20, 21}
    assert np.array_equal(folds, fold_of_rows(LABELS, None, 5, seed=7))
    assert not np.array_equal(folds, fold_of_rows(LABELS, None, 5, seed=8))


def test_folds_of_groups_divide_none_and_are_scikit_learns():
    folds = fold_of_rows(LABELS, GROUPS, 4, seed=3)
    for group in np.unique(GROUPS):
        assert len(set(folds[group == GROUPS])) == 1
    parts = StratifiedGroupKFold(4, shuffle=True, random_state=3).split(LABELS, LABELS, GROUPS)
    for number, (_, rows) in enumerate(parts):
        assert np.array_equal(np.flatnonzero(folds == number), rows)


@pytest.mark.parametrize(("fraction", "least", "most"), [(0.1, 5, 16), (0.15, 10, 21), (0.5, 40, 61), (0.001, 1, 8)])
def test_a_part_of_groups_is_held_out(fraction, least, most):
    kept, held_out = group_split(LABELS, GROUPS, fraction, seed=0)
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(len(LABELS)))
    assert not set(GROUPS[kept]) & set(GROUPS[held_out])
    assert least <= len(held_out) <= most


def test_two_groups_are_enough_and_one_is_not():
    kept, held_out = group_split(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 0.1, seed=0)
    assert len(kept) == len(held_out) == 2
    with pytest.raises(UserError, match=r"^All images are of one group"):
        group_split(np.array([0, 1]), np.array([5, 5]), 0.1, seed=0)
    with pytest.raises(UserError, match=r"^There are 24 groups for 26 folds; use at most"):
        fold_of_rows(LABELS, GROUPS, 26, seed=0)
    with pytest.raises(UserError, match=r"^There are 60 folds, and no class has more than 50 images"):
        fold_of_rows(LABELS, None, 60, seed=0)


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "2", "a/b", "1/5/2", "-1/5"])
def test_a_fold_that_is_none(fold):
    with pytest.raises(UserError, match=rf"^fold is {fold}; use the number of a fold"):
        parse_fold(fold)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"fold": "1/5", "validation_split": "val"}, "validation_split is val, and fold 1/5 of train takes its place"),
        ({"fold": "1/5", "streaming": True}, "fold divides images before training"),
        ({"group_column": "patient", "streaming": True}, "group_column divides images before training"),
    ],
)
def test_keys_that_contradict_each_other(settings, line):
    with pytest.raises(UserError, match=rf"^{line}"):
        DataArguments(dataset="digits", **settings)


def raw(**columns: list[object]) -> RawDataset:
    return RawDataset({"train": Dataset.from_dict(columns)}, source="scans.csv")


@pytest.mark.parametrize("values", [["a", "b", "a"], [3, 1, 3], [0.5, 2.0, 0.5]])
def test_groups_are_texts_or_numbers(values):
    first, second, third = read_groups(raw(patient=values), {"train": "train"}, "patient")["train"]
    assert first == third != second


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (["a", None, " "], "2 rows have no patient in split train of scans.csv, the first is row 1"),
        ([1.0, float("nan")], "1 row has no patient"),
        ([[1], [2]], "patient of scans.csv is list"),
    ],
)
def test_rows_without_a_group(values, line):
    with pytest.raises(UserError, match=rf"^group_column: {line}"):
        read_groups(raw(patient=values), {"train": "train"}, "patient")


def test_a_column_that_is_not_there():
    with pytest.raises(UserError, match=r'no column "pateint" in split train\. Did you mean "patient"\?'):
        read_groups(raw(patient=["a"]), {"train": "train"}, "pateint")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 40 images of 10 patients in train and 8 in test, of whom 2 are in train too."""
    folder = tmp_path_factory.mktemp("scans")
    lines = ["image,finding,patient,split"]
    for number in range(48):
        PIL.Image.new("RGB", (4, 4), (number, 5 * number, 0)).save(folder / f"{number}.png")
        split = "train" if number < 40 else "test"
        patient = number % 10 if split == "train" else number - 32
        lines.append(f"{number}.png,{'ill' if number % 4 < 2 else 'well'},p{patient},{split}")
    (folder / "scans.csv").write_text("\n".join(lines) + "\n")
    return folder / "scans.csv"


def rows_of(data: ImageDataset, role: str) -> set[int]:
    return set(data.splits[role]["sample_index"])


def patients(rows: set[int]) -> set[int]:
    return {row % 10 for row in rows}


def test_a_single_run_holds_out_whole_groups(scans):
    data = load_image_dataset(DataArguments(dataset=str(scans), group_column="patient", validation_fraction=0.2), 0)
    train, held_out = rows_of(data, "train"), rows_of(data, "validation")
    assert len(train) + len(held_out) == 40 and len(held_out) == 8
    assert not patients(train) & patients(held_out)
    assert "whole groups (patient)" in data.split_names["validation"]
    shared = "Warning: 2 of 8 groups (patient) of test are in train too, 2 images"
    assert any(note.startswith(shared) for note in data.notes)
    assert data.label_names == ["ill", "well"]  # the groups are not taken for labels


@pytest.mark.parametrize("group_column", [None, "patient"])
def test_the_folds_of_a_dataset_are_its_train_split(scans, group_column):
    seen: list[int] = []
    for number in range(1, 6):
        arguments = DataArguments(dataset=str(scans), fold=f"{number}/5", group_column=group_column)
        if group_column is None:
            arguments.label_column = "finding"  # beside another column of names
        data = load_image_dataset(arguments, 0)
        train, held_out = rows_of(data, "train"), rows_of(data, "validation")
        assert not train & held_out and len(train | held_out) == 40 and len(data.splits["test"]) == 8
        assert group_column is None or not patients(train) & patients(held_out)
        assert data.split_names["validation"].startswith(f"fold {number}/5 of train, stratified")
        seen += held_out
    assert sorted(seen) == list(range(40))


def test_a_fold_takes_the_place_of_a_validation_split(scans):
    text = scans.read_text().replace(",test", ",val")
    table = scans.with_name("with_val.csv")
    table.write_text(text)
    data = load_image_dataset(DataArguments(dataset=str(table), fold="2/4", label_column="finding"), 0)
    assert len(data.splits["validation"]) == 10 and len(data.splits["train"]) == 30
    assert "Split val is not used: fold 2/4 of train is validation." in data.notes
