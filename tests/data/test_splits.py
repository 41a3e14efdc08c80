"""Roles of splits, the stratified part that is held out, and limits."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_finetune.data.catalog import CATALOG, DatasetEntry
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.splits import (
    choose_splits,
    note_unused_splits,
    random_subset,
    reference_split,
    split_role,
    stratified_split,
)
from hf_finetune.errors import UserError


def raw(*names: str) -> RawDataset:
    return RawDataset({name: Dataset.from_dict({"x": [0]}) for name in names}, source="pets")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *[(name, "train") for name in ("train", "training", "Train")],
        *[(name, "validation") for name in ("val", "valid", "validation", "dev", "VAL")],
        *[(name, "test") for name in ("test", "testing")],
        ("trains", None),
        ("cats", None),
    ],
)
def test_split_role(name: str, role: str | None) -> None:
    assert split_role(name) == role


def test_choose_splits_by_name_choice_and_catalog() -> None:
    splits = raw("training", "dev", "extra", "test")
    assert choose_splits(splits, {}, None) == {"train": "training", "validation": "dev", "test": "test"}
    chosen = choose_splits(splits, {"validation": "extra", "test": None}, None)
    assert chosen == {"train": "training", "validation": "extra", "test": "test"}
    # The catalog knows cifar10's splits, but a local copy in class folders may call them otherwise.
    assert choose_splits(raw("train", "val"), {}, CATALOG["imagenet"]) == {"train": "train", "validation": "val"}


def test_choose_splits_refuses() -> None:
    with pytest.raises(
        UserError, match=r'^validation_split: pets has no split "tset"\. Did you mean "test"\?.*train, test'
    ):
        choose_splits(raw("train", "test"), {"validation": "tset"}, None)
    with pytest.raises(UserError, match=r"the splits val and dev could both be validation; use --validation_split val"):
        choose_splits(raw("train", "val", "dev"), {}, None)


def test_stratified_split_takes_its_part_of_each_class() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [500, 300, 200]))
    kept, held_out = stratified_split(labels, 0.1, seed=42)
    assert np.bincount(labels[held_out]).tolist() == [50, 30, 20]
    assert sorted([*kept, *held_out]) == list(range(1000))
    assert (np.diff(kept) > 0).all() and (np.diff(held_out) > 0).all()


def test_stratified_split_takes_its_part_of_the_whole() -> None:
    labels = np.repeat(np.arange(10), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])  # MNIST's
    assert len(stratified_split(labels, 0.1, seed=0)[1]) == 6000


def test_stratified_split_of_small_classes() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2, 3, 3])
    for fraction in (0.01, 0.1, 0.5, 0.99):
        kept, held_out = stratified_split(labels, fraction, seed=0)
        assert set(labels[kept]) == {0, 1, 2, 3}, "every class is still there to learn"
        assert set(labels[held_out]) == {1, 2, 3}, "every class with two images can be measured"


def test_stratified_split_follows_the_seed() -> None:
    labels = np.repeat(np.arange(4), 50)
    first, again, other = (stratified_split(labels, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_random_subset() -> None:
    subset = random_subset(1000, 100, seed=3)
    assert len(set(subset.tolist())) == 100
    assert (np.diff(subset) > 0).all()
    assert subset.max() > 900, "not merely the first rows"
    assert subset.tolist() == random_subset(1000, 100, seed=3).tolist()
    assert subset.tolist() != random_subset(1000, 100, seed=4).tolist()


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ([17, 14, 19], 0.1, [2, 1, 2]),  # quotas 1.7, 1.4, 1.9: two of five rows go to the largest remainders
        ([14, 19, 17], 0.1, [1, 2, 2]),
        ([15, 15, 20], 0.1, [2, 1, 2]),  # quotas 1.5, 1.5, 2: of equal remainders the first class comes first
        ([16, 16, 16], 0.1, [2, 2, 1]),  # 4.8 of 48 rows are 5
        ([14, 14, 14], 0.1, [2, 1, 1]),  # 4.2 of 42 rows are 4
        ([10, 20, 30], 0.5, [5, 10, 15]),
        ([1, 2, 3], 0.01, [0, 1, 1]),  # one is held out of every class that has two
        ([1, 2, 3], 0.99, [0, 1, 2]),  # and one is kept
        ([4, 4], 0.25, [1, 1]),
    ],
)
def test_stratified_split_gives_what_rounding_leaves_to_the_largest_remainders(
    counts: list[int], fraction: float, expected: list[int]
) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([3, 5, 8][: len(counts)], counts))
    kept, held_out = stratified_split(labels, fraction, seed=0)
    taken = np.bincount(labels[held_out], minlength=9)[[3, 5, 8][: len(counts)]]
    assert taken.tolist() == expected
    assert sorted([*kept, *held_out]) == list(range(len(labels)))


def test_stratified_split_stays_what_it_was() -> None:
    """A change would move images of a published test split, or of a resumed run, from one part to the other."""
    labels = np.arange(30) % 3
    assert stratified_split(labels, 0.2, seed=0)[1].tolist() == [7, 12, 14, 17, 18, 28]
    assert stratified_split(labels, 0.2, seed=7)[1].tolist() == [0, 7, 13, 14, 20, 24]


def test_random_subset_stays_what_it_was() -> None:
    assert random_subset(20, 5, seed=0).tolist() == [2, 4, 6, 13, 19]
    assert random_subset(4, 4, seed=0).tolist() == [0, 1, 2, 3]


def test_the_user_s_choice_wins_over_the_catalog_and_the_catalog_over_names() -> None:
    entry = DatasetEntry("pets", None, 2, train_split="extra", validation_split=None, test_split="validation")
    splits = raw("test", "validation", "train", "extra")
    chosen = choose_splits(splits, {}, entry)
    assert list(chosen.items()) == [("train", "extra"), ("test", "validation")]
    assert choose_splits(splits, {"train": "train", "test": "test"}, entry) == {"train": "train", "test": "test"}
    # A split that the catalog has given a role is no candidate for another; one that it has not named still is.
    assert choose_splits(raw("train", "val", "test"), {}, entry) == {
        "train": "train",
        "validation": "val",
        "test": "test",
    }


def test_a_choice_settles_which_of_two_splits_it_is() -> None:
    splits = raw("train", "val", "dev")
    assert choose_splits(splits, {"validation": "dev"}, None) == {"train": "train", "validation": "dev"}


def test_the_reference_is_train_or_else_the_first_role_that_there_is() -> None:
    splits = raw("a", "b", "c")
    assert reference_split(splits, {"test": "c", "validation": "b", "train": "a"}, require_train=True) == "a"
    assert reference_split(splits, {"test": "c", "validation": "b"}, require_train=False) == "b"
    assert reference_split(splits, {"test": "c", "train": "a"}, require_train=False) == "a"
    for roles, require_train in (({"test": "c"}, True), ({}, True), ({}, False)):
        with pytest.raises(
            UserError, match=r"^pets has no split to train on: it has a, b, c; use --train_split NAME\.$"
        ):
            reference_split(splits, roles, require_train)


def test_splits_without_a_role_are_named() -> None:
    splits = raw("train", "extra", "test", "more")
    assert note_unused_splits(splits, {"train": "train", "test": "test"}) == ["Splits not used: extra, more."]
    assert note_unused_splits(raw("train"), {"train": "train", "validation": "train"}) == []
