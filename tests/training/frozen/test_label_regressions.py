"""The probe of several labels is a logistic regression for each class, as scikit-learn fits it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from hf_finetune.training.frozen.label_regressions import fit_label_regressions
from hf_finetune.training.frozen.probe import _center_and_scale


@pytest.mark.parametrize("label_weights", [1.0, np.array([1.0, 5, 0.2, 2])], ids=["plain", "weighted"])
def test_each_class_is_scikit_learn_s_regression(label_weights: np.ndarray | float) -> None:
    generator = np.random.default_rng(0)
    features = (3 + 2 * generator.normal(size=(400, 8))).astype(np.float32)
    labels = features @ generator.normal(size=(8, 4)) + generator.normal(size=(400, 4)) > 4
    mean, scale = _center_and_scale(features[:300])
    weight, bias, figure = fit_label_regressions(
        features[:300], labels[:300], features[300:], labels[300:], (1e-2,), mean, scale, label_weights
    )
    scaled = (features - mean) / scale
    for k in range(4):
        weights = np.where(labels[:300, k], np.broadcast_to(label_weights, 4)[k], 1.0)
        solver = LogisticRegression(C=1e-2, max_iter=1000, tol=1e-8).fit(scaled[:300], labels[:300, k], weights)
        expected = solver.decision_function(scaled[300:])
        np.testing.assert_allclose(features[300:] @ weight[k] + bias[k], expected, atol=2e-2)
    logits = features[300:] @ weight.T + bias
    assert abs(figure - average_precision_score(labels[300:], logits, average="macro")) < 1e-3
