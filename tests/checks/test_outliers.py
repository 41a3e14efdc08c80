"""The distance of images to their like, and which of them are far out."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_finetune.checks import probes
from hf_finetune.checks.finding import Finding
from hf_finetune.checks.outliers import check_unlike, far_out
from hf_finetune.checks.probes import distance_to_neighbours
from hf_finetune.checks.scan import LOOK, Scan
from hf_finetune.checks.subject import Subject
from hf_finetune.data.dataset import ImageDataset


def drawn(count: int = 200, strangers: int = 0) -> np.ndarray:
    """Features around one direction, and the last ones around another."""
    generator = np.random.default_rng(0)
    features = generator.normal(0, 0.1, (count, 8)).astype(np.float32)
    features[:, 0] += 1
    features[count - strangers :, 0] -= 1
    features[count - strangers :, 1] -= 1
    return features


def by_hand(features: np.ndarray, compared: np.ndarray) -> list[float]:
    unit = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    distances = 1 - unit @ unit.T
    return [sorted(distances[row, [other for other in compared if other != row]])[4] for row in range(len(features))]


def test_the_distance_is_that_to_the_fifth_neighbour():
    features = drawn(30)
    assert distance_to_neighbours(features, 0) == pytest.approx(by_hand(features, np.arange(30)), rel=1e-3)


def test_many_images_are_compared_with_some(monkeypatch):
    monkeypatch.setattr(probes, "_COMPARED", 12)
    features = drawn(30)
    compared = np.random.default_rng(7).permutation(30)[:12]
    assert distance_to_neighbours(features, 7) == pytest.approx(by_hand(features, compared), rel=1e-3)


def found(features: np.ndarray, constant: tuple[int, ...] = ()) -> list[Finding]:
    count = len(features)
    looks = np.zeros(count, LOOK)
    looks["readable"] = True
    looks["constant"][list(constant)] = True
    split = Dataset.from_dict({"label": [0] * count, "sample_index": list(range(count))})
    sources = {"train": Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * count})}
    data = ImageDataset({"train": split}, {"train": "train"}, ["cat"], "toy", None, sources=sources)
    subject = Subject(data, {"train": Scan(looks, {})}, distances=distance_to_neighbours(features, 0))
    return check_unlike(subject)


def test_a_few_strangers_are_listed_the_strangest_first():
    features = drawn(1000, strangers=3)
    features[999] *= -1
    (finding,) = found(features)
    assert {group.images[0].row for group in finding.groups} == {997, 998, 999} and finding.count == 3
    distances = distance_to_neighbours(features, 0)
    assert finding.groups[0].images[0].row == distances.argmax()
    assert finding.groups[0].text == f"{distances.max() / np.median(distances):.1f} times as far as usual"
    assert finding.text.startswith("3 images are unlike all others but a few, by the features of the network")


def test_images_that_are_like_others_are_not_listed():
    assert found(drawn(1000)) == []
    copies = drawn(1000)
    copies[:8] = copies[0]
    assert found(copies) == []


def test_blank_images_are_told_by_another_check_and_few_images_by_none():
    assert found(drawn(1000, strangers=1), constant=(999,)) == []
    assert found(drawn(99, strangers=1)) == []


def test_far_out_on_both_sides_or_above():
    values = np.concatenate([np.linspace(0, 1, 500), [-9.0, 20.0]])
    assert far_out(values, 0.0).tolist() == [501, 500] and far_out(values, 0.0, above=True).tolist() == [501]
