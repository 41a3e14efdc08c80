"""The figures, against hand-made cases and against scikit-learn's own functions."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support
from transformers import EvalPrediction

from hf_finetune.errors import UserError
from hf_finetune.evaluation.analysis import confusion_matrix, per_class_figures
from hf_finetune.evaluation.intervals import wilson_interval
from hf_finetune.evaluation.metrics import (
    METRICS,
    ClassificationMetrics,
    Metric,
    Predictions,
    reduce_logits,
    run_metrics,
)
from tests.helpers.launched import run_in

MODULE = Path(__file__).resolve().parents[2] / "hf_finetune" / "evaluation" / "modules" / "image_classification"


def names(count: int) -> list[str]:
    return [f"class {number}" for number in range(count)]


def figures_of(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    arrays = tuple(tensor.numpy() for tensor in reduce_logits(logits, labels))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ClassificationMetrics(names(logits.shape[1]))(EvalPrediction(arrays, labels.numpy()))


def test_reduce_logits_by_hand():
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6]])
    predictions, top5_hits, losses, confidences = reduce_logits(logits, torch.tensor([4, 0]))
    assert predictions.tolist() == [0, 6] and predictions.dtype == torch.int64
    assert top5_hits.tolist() == [True, False]
    log_sum = float(np.log(np.exp(np.arange(7)).sum()))
    assert losses.tolist() == pytest.approx([log_sum - 2, log_sum - 0]) and losses.dtype == torch.float32
    assert confidences.tolist() == pytest.approx([np.exp(6 - log_sum)] * 2) and confidences.dtype == torch.float32


def test_reduce_logits_computes_the_loss_in_float32():
    logits = torch.tensor([[8.0, 0.0, 0.0]], dtype=torch.bfloat16)
    loss = reduce_logits(logits, torch.tensor([0]))[2]
    assert loss.item() == pytest.approx(np.log1p(2 * np.exp(-8)), rel=1e-4)


@pytest.mark.parametrize("labels", [None, torch.tensor([-100, -1])])
def test_reduce_logits_without_labels(labels):
    predictions, top5_hits, losses, _ = reduce_logits(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), labels)
    assert predictions.tolist() == [1, 0]
    assert top5_hits.tolist() == [False, False]
    assert losses.isnan().all()


def test_figures_agree_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 8, generator=generator)
    labels = torch.randint(0, 8, (500,), generator=generator)
    logits[torch.arange(500), labels] += 1.5
    figures = figures_of(logits, labels)
    predictions = logits.argmax(1)
    assert set(figures) == {"accuracy", "top5_accuracy", "macro_f1", "balanced_accuracy", "loss", "ece", "samples"}
    assert figures["samples"] == 500
    assert figures["accuracy"] == pytest.approx((predictions == labels).double().mean().item())
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predictions))
    rank = (logits > logits[torch.arange(500), labels][:, None]).sum(1)
    assert figures["top5_accuracy"] == pytest.approx((rank < 5).double().mean().item())
    assert figures["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-6)
    assert {type(value) for value in figures.values()} == {float, int}


def test_top5_only_with_more_than_five_classes():
    labels = torch.tensor([0, 1])
    assert "top5_accuracy" not in figures_of(torch.eye(5)[:2], labels)
    assert figures_of(torch.eye(6)[:2], labels)["top5_accuracy"] == 1.0


def test_absent_classes_and_unlabelled_images():
    # Class 1 is only predicted, class 2 is absent altogether, the last image has no label.
    logits = torch.eye(3)[[0, 0, 1, 0]]
    figures = figures_of(logits, torch.tensor([0, 0, 0, -100]))
    assert figures["samples"] == 3
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["balanced_accuracy"] == pytest.approx(2 / 3)  # over class 0
    assert figures["macro_f1"] == pytest.approx((0.8 + 0) / 2)  # over classes 0 and 1
    assert np.isfinite(figures["loss"])


def test_more_classes_than_half_the_images_warn_of_nothing():
    figures = figures_of(torch.eye(40), torch.arange(40))  # warnings are errors there
    assert figures["accuracy"] == figures["macro_f1"] == figures["balanced_accuracy"] == 1.0


def test_loss_is_summed_in_float64():
    losses = np.full(3_000, 0.1, dtype=np.float32)
    losses[0] = 2.0**24
    zeros = np.zeros(3_000, dtype=np.int64)
    figures = ClassificationMetrics(names(2))(
        EvalPrediction((zeros, zeros == 0, losses, np.ones(3_000, np.float32)), zeros)
    )
    assert figures["loss"] == pytest.approx((2.0**24 + 2_999 * float(np.float32(0.1))) / 3_000, rel=1e-12)


def test_no_label_at_all_is_told():
    with pytest.raises(UserError, match=r"None of the 2 images to evaluate has a label .* --test_split"):
        figures_of(torch.eye(2), torch.tensor([-1, -1]))


def test_per_class_figures_and_confusion_matrix():
    labels = np.array([0, 0, 0, 1, 1, -1])
    predictions = np.array([0, 0, 1, 1, 2, 2])
    assert confusion_matrix(predictions, labels, names(4)).tolist() == [
        [2, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert confusion_matrix(predictions, labels, names(4)).dtype == np.int64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = per_class_figures(predictions, labels, names(4))
    recall = {"recall": pytest.approx(2 / 3), "recall_interval": wilson_interval(2, 3)}
    assert figures[0] == {"name": "class 0", "precision": 1.0, **recall, "f1": 0.8, "support": 3}
    recall = {"recall": 0.5, "recall_interval": wilson_interval(1, 2)}
    assert figures[1] == {"name": "class 1", "precision": 0.5, **recall, "f1": 0.5, "support": 2}
    # Class 2 was predicted but has no image, class 3 neither: their figures are unknown, not 0.
    for row in figures[2:]:
        assert row["support"] == 0 and all(np.isnan(row[name]) for name in ("precision", "recall", "f1"))
    assert [row["name"] for row in figures] == names(4)


def test_nothing_labelled_gives_empty_tables():
    nothing = np.array([-1, -1])
    assert confusion_matrix(np.array([0, 1]), nothing, names(2)).tolist() == [[0, 0], [0, 0]]
    assert [row["support"] for row in per_class_figures(np.array([0, 1]), nothing, names(2))] == [0, 0]


def test_fifty_thousand_images_of_a_thousand_classes_take_a_moment():
    """The reduced arrays alone are read: no array of images x classes, and no Python object per image."""
    generator = np.random.default_rng(0)
    labels, classes = generator.integers(0, 1_000, 50_000), generator.integers(0, 1_000, 50_000)
    ones = np.ones(50_000, np.float32)
    prediction = EvalPrediction((classes, labels == classes, ones, ones), labels)
    metrics = ClassificationMetrics(names(1_000))
    start = time.perf_counter()
    metrics(prediction)
    assert time.perf_counter() - start < 0.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_at_once_without_network(tmp_path: Path):
    """Both load the module into one empty cache, compute at the same time, and would fail at the first connection."""
    script = tmp_path / "compute.py"
    script.write_text(
        "import os, socket, sys\n"
        "import evaluate\n"
        f"evaluate.config.HF_METRICS_CACHE = {str(tmp_path / 'metrics')!r}\n"
        f"evaluate.config.HF_MODULES_CACHE = {str(tmp_path / 'modules')!r}\n"
        f"sys.path.insert(0, {str(tmp_path / 'modules')!r})\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "child = os.fork()\n"
        f"module = evaluate.load({str(MODULE)!r}, keep_in_memory=True)\n"
        "for _ in range(20):\n"
        "    result = module.compute(predictions=[0, 1, 1], references=[0, 1, 0], top5_hits=[True] * 3,\n"
        "                            losses=[1.0, 2.0, 6.0], confidences=[0.5, 0.9, 0.7], num_labels=2)\n"
        "assert result['loss'] == 3.0 and result['samples'] == 3, result\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    done = run_in(1, script)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "modules").rglob("image_classification.py"))


# ---- the registry ----


def outcome(classes: list[int], labels: list[int], num_classes: int = 3, **arrays: np.ndarray) -> Predictions:
    count = len(labels)
    arrays = {"top5_hits": np.ones(count, bool), "losses": np.zeros(count, np.float32), **arrays}
    arrays.setdefault("confidences", np.ones(count, np.float32))
    return Predictions(np.array(classes), np.array(labels), num_classes=num_classes, **arrays)


def test_each_metric_by_hand_on_unequal_classes():
    """Six images of class 0, two of class 1, one of class 2: means over images and over classes differ."""
    predictions = outcome([0, 0, 0, 0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 1, 1, 2])
    figures = {name: metric.compute(predictions) for name, metric in METRICS.items()}
    assert figures["accuracy"] == pytest.approx(6 / 9)  # 5 + 1 + 0
    assert figures["balanced_accuracy"] == pytest.approx((5 / 6 + 1 / 2 + 0) / 3)
    # F1 is 2 correct / (images of the class + images given the class): 10 / (6 + 6), 2 / (2 + 3), 0 / (1 + 0)
    assert figures["macro_f1"] == pytest.approx((10 / 12 + 2 / 5 + 0) / 3)
    assert predictions.support.tolist() == [6, 2, 1]
    assert predictions.predicted.tolist() == [6, 3, 0]
    assert predictions.correct.tolist() == [5, 1, 0]


def test_top5_and_loss_are_means_over_images():
    hits, losses = np.array([True, False, True, True]), np.array([1.0, 2.0, 3.0, 6.0], np.float32)
    predictions = outcome([0] * 4, [0] * 4, 9, top5_hits=hits, losses=losses)
    assert METRICS["top5_accuracy"].compute(predictions) == 0.75
    assert METRICS["loss"].compute(predictions) == 3.0


def test_the_fifth_logit_counts_and_the_sixth_does_not():
    logits = torch.arange(7, 0, -1.0).repeat(7, 1)  # class 0 first, class 6 last
    assert reduce_logits(logits, torch.arange(7))[1].tolist() == [True] * 5 + [False] * 2
    # With five classes or fewer each label is a hit, and the metric is left out.
    assert reduce_logits(torch.eye(3), torch.tensor([0, 1, 1]))[1].tolist() == [True] * 3
    assert ClassificationMetrics(names(6)).names == [
        "accuracy",
        "top5_accuracy",
        "macro_f1",
        "balanced_accuracy",
        "loss",
        "ece",
    ]
    assert ClassificationMetrics(names(5)).names == ["accuracy", "macro_f1", "balanced_accuracy", "loss", "ece"]


def test_label_0_counts_and_any_negative_label_does_not():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    labels = torch.tensor([0, -1, -100, 1])
    predictions, hits, losses, _ = reduce_logits(logits, labels)
    assert predictions.tolist() == [0, 1, 0, 0] and hits.tolist() == [True, False, False, True]
    assert losses.isnan().tolist() == [False, True, True, False]
    figures = figures_of(logits, labels)
    assert figures["samples"] == 2 and figures["accuracy"] == 0.5
    assert figures["loss"] == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(2))) / 2)
    rows = per_class_figures(predictions.numpy(), labels.numpy(), names(2))
    assert [row["support"] for row in rows] == [1, 1]
    assert confusion_matrix(predictions.numpy(), labels.numpy(), names(2)).tolist() == [[1, 0], [1, 0]]


def test_rows_are_labels_and_columns_predictions():
    assert confusion_matrix(np.array([2, 2]), np.array([0, 1]), names(3)).tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_per_class_figures_agree_with_scikit_learn():
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 7, 300), generator.integers(0, 7, 300)
    columns = precision_recall_fscore_support(labels, predictions)
    rows = per_class_figures(predictions, labels, names(7))
    for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        assert [row[name] for row in rows] == pytest.approx(column.tolist())


def test_a_user_metric_gets_probabilities_and_labels_of_the_labelled_images():
    seen = []

    def brier(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        seen.append((probabilities, labels))
        return np.mean((1 - probabilities[np.arange(len(labels)), labels]) ** 2)

    metrics = ClassificationMetrics(names(2), run_metrics({"brier": brier}))
    assert metrics.names == ["accuracy", "macro_f1", "balanced_accuracy", "loss", "ece", "brier"]
    logits, labels = torch.tensor([[0.0, 0.0], [3.0, -3.0], [0.0, 0.0]], dtype=torch.bfloat16), torch.tensor([1, -1, 0])
    reduced = metrics.reduce_logits(logits, labels)
    assert len(reduced) == 5 and reduced[4].dtype == torch.float32
    figures = metrics(EvalPrediction(tuple(tensor.numpy() for tensor in reduced), labels.numpy()))
    assert figures["brier"] == 0.25 and type(figures["brier"]) is float
    ((probabilities, given),) = seen
    assert probabilities.tolist() == [[0.5, 0.5]] * 2 and given.tolist() == [1, 0]
    assert "brier" not in METRICS  # the run's own registry


def test_of_many_classes_the_probabilities_of_the_likeliest_are_kept():
    logits = torch.randn(4, 101, generator=torch.Generator().manual_seed(0))
    whole = ClassificationMetrics(names(100)).reduce_logits(logits[:, :100], torch.arange(4))
    assert len(whole) == 5 and torch.allclose(whole[4], logits[:, :100].softmax(dim=1))
    *_, classes, probabilities = ClassificationMetrics(names(101)).reduce_logits(logits, torch.arange(4))
    expected = logits.softmax(dim=1).topk(5, dim=1)
    assert torch.equal(classes.long(), expected.indices)
    assert torch.allclose(probabilities, expected.values)


def test_a_metric_is_a_number():
    metrics = ClassificationMetrics(names(2), run_metrics({"mine": lambda probabilities, labels: {"f1": 1.0}}))
    labels = torch.tensor([0, 1])
    reduced = tuple(tensor.numpy() for tensor in metrics.reduce_logits(torch.eye(2), labels))
    with pytest.raises(UserError, match="metrics: mine returned a dict; use a function that returns one number"):
        metrics(EvalPrediction(reduced, labels.numpy()))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"accuracy": abs}, 'metrics: "accuracy" is the name of a figure that each run has; use another name.'),
        ({"samples": abs}, '"samples" is the name of a figure'),
        ({"my metric": abs}, 'metrics: "my metric" cannot be the name of a metric; use letters, digits and "_".'),
        ({"mine": 0.5}, "metrics: mine is a float; use a function of (probabilities, labels) that returns one number."),
    ],
)
def test_what_cannot_be_a_metric(own, message):
    with pytest.raises(UserError) as caught:
        run_metrics(own)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "setting", "greater"),
    [
        ("accuracy", True, True),
        ("loss", False, False),
        ("error", True, False),  # Transformers' default for the name, which the registry corrects
        ("gain_loss", False, True),
        ("error", None, False),
        ("accuracy", False, False),  # the user's word
        ("mine", True, True),
        ("mine", False, False),
        ("mine_loss", None, False),
    ],
)
def test_which_way_is_better(name: str, setting: bool | None, greater: bool):
    own = {
        "error": Metric(lambda predictions: 0.0, "error", "error", "error", greater_is_better=False),
        "gain_loss": Metric(lambda predictions: 0.0, "gain", "gain", "gain", greater_is_better=True),
        "mine": lambda probabilities, labels: 0.0,
        "mine_loss": lambda probabilities, labels: 0.0,
    }
    assert ClassificationMetrics(names(2), run_metrics(own)).greater_is_better(name, setting) is greater


def test_the_evaluate_module_gives_the_registry_s_figures(evaluate_cache: Path):
    import evaluate

    module = evaluate.load(str(MODULE), keep_in_memory=True)
    logits, labels = torch.eye(7)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 3])
    classes, hits, losses, confidences = reduce_logits(logits, labels)
    arrays = {"predictions": classes, "references": labels, "top5_hits": hits, "losses": losses}
    figures = module.compute(**arrays, confidences=confidences, num_labels=7)
    assert figures == pytest.approx(figures_of(logits, labels))
