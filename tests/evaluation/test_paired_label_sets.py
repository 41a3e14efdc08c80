"""The figures of two models on images with several labels, against scikit-learn on the same resampled images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from hf_finetune.evaluation.multi_label import LabelSetPredictions
from hf_finetune.evaluation.paired_label_sets import paired_figures

IMAGES, CLASSES = 80, 4
RANDOM = np.random.default_rng(3)
HAS_LABEL = RANDOM.random((IMAGES, CLASSES)) < 0.4
HAS_LABEL[0] = True


def answers(noise: float, seed: int, columns: list[int] | None = None) -> LabelSetPredictions:
    """Return the answers of a model that is as wrong as `noise` is large, with its classes in another order."""
    logits = 2.0 * HAS_LABEL - 1 + np.random.default_rng(seed).normal(0, noise, HAS_LABEL.shape)
    columns = columns or [*range(CLASSES)]
    # Class 4 is one that no image has and that the model gives to some.
    own, has_label = np.c_[logits, logits[:, 0] - 1.5][:, columns], np.c_[HAS_LABEL, np.zeros(IMAGES, bool)][:, columns]
    thresholds = np.full(len(columns), 0.6)
    return LabelSetPredictions(own.astype(np.float32), has_label, np.zeros(IMAGES, np.float32), thresholds)


def figures(model: LabelSetPredictions, weights: np.ndarray | None = None) -> list[float]:
    """Return mAP, micro F1 and macro F1 by scikit-learn, over the classes that occur."""
    weights = np.ones(IMAGES) if weights is None else weights
    drawn = weights > 0
    seen = np.flatnonzero(model.has_label[drawn].any(axis=0))
    occurs = np.flatnonzero((model.has_label | model.given)[drawn].any(axis=0))
    precisions = [
        average_precision_score(model.has_label[:, place], model.logits[:, place], sample_weight=weights)
        for place in seen
    ]
    return [
        float(np.mean(precisions)),
        f1_score(model.has_label, model.given, average="micro", sample_weight=weights),
        f1_score(model.has_label, model.given, labels=occurs, average="macro", sample_weight=weights),
    ]


@pytest.mark.parametrize("columns", [[2, 0, 3, 1], [4, 2, 0, 3, 1]], ids=["order", "more"])
def test_both_models_are_given_the_same_draws(columns: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    # Fewer resamples than usual, and fewer for more classes: 10 or 8.
    monkeypatch.setattr("hf_finetune.evaluation.label_set_intervals._MOST_DRAWS", 10 * IMAGES * CLASSES)
    monkeypatch.setattr("hf_finetune.evaluation.label_set_intervals._FEWEST", 1)
    first, second = answers(0.9, 0), answers(1.2, 1, columns)
    found = paired_figures(first, second)
    assert list(found) == ["mAP", "micro_f1", "macro_f1"]
    number = 8 if len(columns) > CLASSES else 10
    draws = np.random.default_rng(0).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), number)
    resampled = np.array([np.subtract(figures(second, draw), figures(first, draw)) for draw in draws])
    whole = figures(first), figures(second)
    for place, figure in enumerate(found.values()):
        assert figure["first"] == pytest.approx(whole[0][place])
        assert figure["second"] == pytest.approx(whole[1][place])
        difference = whole[1][place] - whole[0][place]
        assert figure["difference"] == pytest.approx(difference)
        shifted = resampled[:, place] - resampled[:, place].mean() + difference
        assert figure["difference_interval"] == pytest.approx(tuple(np.percentile(shifted, [2.5, 97.5])))
        assert figure["first_interval"][0] < figure["first"] < figure["first_interval"][1]


def test_models_that_share_their_mistakes_have_a_narrow_interval() -> None:
    first = answers(0.9, 0)
    assert paired_figures(first, answers(0.9, 0, [3, 1, 2, 0]))["mAP"]["difference_interval"] == pytest.approx((0, 0))
    logits = first.logits.copy()
    logits[0] = -logits[0]
    alike = LabelSetPredictions(logits, first.has_label, first.losses, first.thresholds)
    for figure, other in zip(
        paired_figures(first, alike).values(), paired_figures(first, answers(0.9, 5)).values(), strict=True
    ):
        reach = np.subtract(*reversed(figure["difference_interval"]))
        assert 0 < reach < np.subtract(*reversed(other["difference_interval"])) / 2
