"""Iterative stratification gives each class its share of both parts, the rare ones first."""

from __future__ import annotations

import numpy as np
import pytest

from hf_finetune.data.iterative_stratification import iterative_folds
from hf_finetune.data.splits import stratified_split


def random_labels(rows: int = 2000) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.random((rows, 12)) < np.geomspace(0.005, 0.5, 12)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_every_class_has_its_share(fraction: float) -> None:
    labels = random_labels()
    kept, held_out = stratified_split(labels, fraction, seed=3)
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    assert len(held_out) == pytest.approx(fraction * len(labels), abs=2)
    wanted = fraction * labels.sum(axis=0)
    assert np.abs(labels[held_out].sum(axis=0) - wanted).max() <= 2
    # A draw of rows alone misses rare classes by more: this would not hold without the rule of the paper.
    drawn = np.random.default_rng(3).permutation(len(labels))[: len(held_out)]
    assert np.abs(labels[drawn].sum(axis=0) - wanted).max() > 4


def test_the_example_by_hand() -> None:
    # Class 0 is the rarest: its two rows are divided first, one for each part, and then those of class 1.
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 0], [0, 0]], dtype=bool)
    kept, held_out = stratified_split(labels, 0.5, seed=0)
    for part in (kept, held_out):
        assert labels[part].sum(axis=0).tolist() == [1, 2] and len(part) == 4


@pytest.mark.parametrize("per_group", [1, 8])
def test_every_fold_has_its_share_and_whole_groups(per_group: int) -> None:
    labels = random_labels(1000)
    groups = np.random.default_rng(1).integers(0, 1000 // per_group, 1000) if per_group > 1 else None
    fold = iterative_folds(labels, groups, 5, seed=3)
    counts = np.array([labels[fold == number].sum(axis=0) for number in range(5)])
    sizes = np.bincount(fold, minlength=5)
    if groups is None:
        assert np.ptp(sizes) <= 1 and np.ptp(counts, axis=0).max() <= 4
        return
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))
    drawn = np.random.default_rng(3).integers(0, 5, 1000 // per_group)[groups]
    by_chance = np.array([labels[drawn == number].sum(axis=0) for number in range(5)])
    assert (np.ptp(counts, axis=0) / np.ptp(by_chance, axis=0)).mean() < 0.7


def test_groups_by_hand() -> None:
    """Class 0 is in groups 0 and 1 alone, so each fold gets one; the others even out class 1 and the rows."""
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    labels = np.array([[1, 1], [0, 1], [1, 0], [0, 0], [0, 1], [0, 1], [0, 0], [0, 0]], dtype=bool)
    for seed in range(4):
        fold = iterative_folds(labels, groups, 2, seed)
        assert [labels[fold == number].sum(axis=0).tolist() for number in (0, 1)] == [[1, 2], [1, 2]]
        assert np.bincount(fold).tolist() == [4, 4]


def test_the_seed_decides_and_repeats() -> None:
    labels = random_labels(300)
    first, again, other = (stratified_split(labels, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other
