"""Roles of splits, the stratified part that is held out, and limits."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_finetune.data.catalog import CATALOG
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.data.splits import choose_splits, random_subset, split_role, stratified_split
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
