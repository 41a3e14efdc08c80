"""Which images a report calls suspects, and when it calls none so."""

from __future__ import annotations

import numpy as np
import pytest

from hf_finetune.reports.answers import Answers
from hf_finetune.reports.choice import choose_images
from hf_finetune.reports.limits import limits_of


@pytest.mark.parametrize(("wrong", "suspects"), [(1, 1), (2, 2), (3, 0)])
def test_labels_are_suspects_of_a_model_that_agrees_with_most(wrong: int, suspects: int):
    labels = np.zeros(10, np.int64)
    labels[:5] = 1
    predictions = labels.copy()
    predictions[:wrong] = 0
    answers = Answers(
        names=[f"{row}.png" for row in range(10)],
        rows=np.arange(10),
        labels=labels,
        predictions=predictions,
        losses=-np.log(np.where(labels == predictions, 0.9, 0.05)).astype(np.float32),
        classes=np.stack([predictions, 1 - predictions], axis=1).astype(np.int32),
        probabilities=np.float32([[0.9, 0.1] if right else [0.95, 0.05] for right in labels == predictions]),
        label_names=["a", "b"],
    )
    choice = choose_images(answers)
    assert choice.num_suspects == suspects and list(choice.suspects) == list(range(suspects))
    assert choice.too_few == (None if suspects else pytest.approx(0.7))
    assert len(choice.worst) == wrong  # mistakes they are in either case
    assert any("may be wrong" in limit for limit in limits_of(answers)) == bool(suspects)
