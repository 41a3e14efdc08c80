"""Weights of classes, sampling by class, and what is said of classes of very different sizes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from hf_finetune import finetune
from hf_finetune.config.loss_keys import SAMPLINGS
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.training.balance import (
    ClassCounts,
    choose_balance,
    class_quotas,
    class_weights,
    describe_imbalance,
    describe_sampling,
    describe_weights,
    logit_offsets,
)
from hf_finetune.training.loss import BatchLoss, classification_loss
from tests.helpers.interrupting import StopAfterAStep
from tests.helpers.tiny import write_recipe

NAMES = ["blue", "green", "red"]
LABELS = np.repeat([0, 1, 2, -100], [100, 20, 5, 7])
COUNTS = ClassCounts.of(NAMES, LABELS)


def test_labels_that_do_not_count_are_not_counted():
    assert COUNTS.images.tolist() == [100, 20, 5]
    assert ClassCounts.of([*NAMES, "none"], LABELS).images.tolist() == [100, 20, 5, 0]


def test_balanced_is_scikit_learns_rule():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS[LABELS >= 0])
    np.testing.assert_allclose(class_weights("balanced", COUNTS), expected)
    with_an_empty_class = class_weights("balanced", ClassCounts.of([*NAMES, "none"], LABELS))
    np.testing.assert_allclose(with_an_empty_class, [*expected, 0])


def test_balanced_weights_of_several_labels_are_the_nos_to_a_yes():
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [-100, -100, -100], [0, 0, 0]])
    counts = ClassCounts.of(["common", "rare", "absent"], labels)
    assert counts.images.tolist() == [3, 1, 0] and counts.total == 4
    np.testing.assert_allclose(class_weights("balanced", counts), [1 / 3, 3, 1])
    assert class_weights({"rare": 5}, counts).tolist() == [1, 5, 1]
    assert describe_imbalance(counts) is None


def test_effective_is_the_inverse_of_the_effective_number():
    images = np.array([100_000, 5_000, 1])
    weights = class_weights("effective", ClassCounts(NAMES, images))
    effective = (1 - 0.9999**images) / (1 - 0.9999)
    np.testing.assert_allclose(weights / weights[0], effective[0] / effective)
    assert (weights * images).sum() / images.sum() == pytest.approx(1)
    assert class_weights("effective", ClassCounts(NAMES, np.array([4, 4, 0]))).tolist() == [1, 1, 0]


def test_stated_weights_are_used_as_they_are_also_for_a_stream():
    for counts in (COUNTS, ClassCounts.of(NAMES, None)):
        assert class_weights([1, 0, 2.5], counts).tolist() == [1, 0, 2.5]
        assert class_weights({"red": 5}, counts).tolist() == [1, 1, 5]
    assert class_weights({7: 2}, ClassCounts.of(["3", "7"], None)).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"gren": 5},
            'class_weights: there is no class "gren". Did you mean "green"? The classes are blue, green, red.',
        ),
        ([1, 2], "class_weights has 2 weights, and the dataset 3 classes; use one for each, in this order: blue, gr"),
        ("balanced", "class_weights balanced needs the labels of train, which are streamed; state the weights"),
    ],
)
def test_what_does_not_fit_the_classes_is_one_line(setting, message):
    with pytest.raises(UserError) as refused:
        class_weights(setting, ClassCounts.of(NAMES, None))
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_one_line_says_the_least_and_the_greatest():
    weights = class_weights("balanced", COUNTS)
    line = describe_weights("balanced", weights, COUNTS)
    assert line == "Class weights, balanced: from 0.417 (blue, 100 images) to 8.33 (red, 5 images)."
    line = describe_weights({"red": 5}, np.array([1, 1, 5]), ClassCounts.of(NAMES, None))
    assert line == "Class weights: from 1 (blue) to 5 (red)."


# ---- sampling ----


@pytest.mark.parametrize(
    ("sampling", "expected"),
    # 125 images: in equal parts; 125 * (10, 4.472, 2.236) / 16.708; weights 1, 0, 20 make 100 and 100 of 200.
    [("balanced", [42, 42, 41]), ("sqrt", [75, 33, 17]), ("weighted", [63, 0, 62])],
)
def test_quotas_are_exact_and_add_up(sampling, expected):
    assert class_quotas(sampling, COUNTS, np.array([1.0, 0.0, 20.0])).tolist() == expected


def test_weights_of_one_image_per_class_are_those_of_balanced_sampling():
    weights = class_weights("balanced", COUNTS)
    assert class_quotas("weighted", COUNTS, weights).tolist() == class_quotas("balanced", COUNTS, None).tolist()


@pytest.mark.parametrize("images", [[1000, 1, 1, 0], [1, 1, 1, 0], [5, 3, 2, 0]])
@pytest.mark.parametrize("sampling", SAMPLINGS[1:])
def test_every_class_that_has_images_is_in_every_epoch(sampling, images):
    quotas = class_quotas(sampling, ClassCounts("abcd", np.array(images)), np.array([1.0, 1e-6, 1.0, 1.0]))
    assert quotas.sum() == sum(images) and (quotas > 0).tolist() == [True, True, True, False]


def test_a_stream_is_not_sampled():
    with pytest.raises(UserError, match="sampling sqrt needs the labels of train, which are streamed; use --class_w"):
        class_quotas("sqrt", ClassCounts.of(NAMES, None), None)


def test_one_line_says_how_often_images_are_shown():
    line = describe_sampling("balanced", np.array([0.42, 2.1, 8.2]), COUNTS)
    expected = "from 0.42 times (blue, 100 images) to 8.2 times (red, 5 images)."
    assert line == f"Sampling, balanced: an epoch shows an image {expected}"


@pytest.mark.parametrize(("images", "said"), [([100, 20, 10], True), ([100, 20, 11], False), ([100, 50, 0], False)])
def test_what_is_unbalanced_is_said_from_ten_to_one_on(images, said):
    line = describe_imbalance(ClassCounts(NAMES, np.array(images)))
    assert (line is not None) == said
    if line is not None:
        assert line.startswith("Note: train is unbalanced, 10 to 1: blue, 100 images; red, 10 images. To learn all")
        without = describe_imbalance(ClassCounts(NAMES, np.array(images)), alike=True)
        assert (
            without
            == "Note: train is unbalanced, 10 to 1: blue, 100 images; red, 10 images. Judge by balanced_accuracy."
        )
    assert describe_imbalance(ClassCounts.of(NAMES, None)) is None


def test_what_a_recipe_asks_for(tmp_path):
    def chosen(**settings):
        args = FinetuneArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
        return choose_balance(args, NAMES, LABELS)

    plain = chosen()
    assert plain.weights is None and plain.quotas is None and "unbalanced, 20 to 1" in plain.notes[0]
    weighted = chosen(sampling="weighted", class_weights={"red": 20})
    assert weighted.weights is None  # they have had their effect
    assert weighted.quotas.count == 125 and [note.split(":")[0] for note in weighted.notes] == ["Sampling, weighted"]
    both = chosen(sampling="balanced", class_weights={"red": 2})
    weights, offsets = both.on(torch.device("cpu"))
    assert weights.tolist() == [1, 1, 2] and offsets is None and len(both.notes) == 2
    adjusted = chosen(logit_adjustment=1)
    assert adjusted.notes == [
        "Logits are shifted in training, by class: from -3.22 (red, 5 images) to -0.223 (blue, 100 images)."
    ]


# ---- logit adjustment ----


@pytest.mark.parametrize("tau", [1.0, 1.5])
def test_the_adjusted_loss_is_the_papers_formula(tau):
    """log(1 + sum over the others of (their share / own share)^tau exp(their logit - own)), Menon et al., (10)."""
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 1, 0])
    offsets = torch.tensor(logit_offsets(tau, COUNTS), dtype=torch.float32)
    shares, expected = COUNTS.images / COUNTS.images.sum(), []
    for row, own in zip(logits.tolist(), labels.tolist(), strict=True):
        others = [other for other in range(3) if other != own]
        terms = [(shares[other] / shares[own]) ** tau * math.exp(row[other] - row[own]) for other in others]
        expected.append(math.log(1 + sum(terms)))
    loss = BatchLoss(classification_loss(0.0).loss, offsets=offsets)
    for rows in ([0, 1, 2, 3, 4, 5], [2, 3]):
        value = loss(SimpleNamespace(logits=logits[rows]), labels[rows]).item()
        assert value == pytest.approx(np.mean([expected[row] for row in rows]), rel=1e-5)


def test_a_class_without_images_is_not_shifted_and_a_stream_is_refused():
    offsets = logit_offsets(2.0, ClassCounts.of([*NAMES, "none"], LABELS))
    np.testing.assert_allclose(offsets, [2 * math.log(0.8), 2 * math.log(0.16), 2 * math.log(0.04), 0])
    with pytest.raises(UserError, match="logit_adjustment 1 needs the labels of train, which are streamed; leave it"):
        logit_offsets(1.0, ClassCounts.of(NAMES, None))


# ---- in a run ----


@pytest.fixture
def uneven_folder(image_folder: Path, tmp_path: Path) -> Path:
    """The coloured images, of which train has 24 blue, 12 green and 4 red ones."""
    folder = tmp_path / "uneven"
    shutil.copytree(image_folder, folder)
    for name, kept in (("green", 12), ("red", 4)):
        for path in sorted((folder / "train" / name).iterdir())[kept:]:
            path.unlink()
    return folder


@pytest.mark.slow
def test_weights_are_of_the_images_that_are_trained_on_and_a_resumed_run_has_the_same(uneven_folder, tmp_path, caplog):
    """Held-out and unreadable images do not count. A run that resumes has checked that the data are the same."""
    (uneven_folder / "train" / "green" / "00.png").write_bytes(b"no image")
    recipe = write_recipe(tmp_path, class_weights="balanced", validation_fraction=0.25, on_bad_image="skip")
    settings = {"dataset": str(uneven_folder), "output_dir": tmp_path / "run"}
    line = "Class weights, balanced: from 0.537 (blue, 18 images) to 3.22 (red, 3 images)."

    with caplog.at_level("INFO", "hf_finetune"), pytest.raises(Interrupted):
        finetune(recipe, callbacks=[StopAfterAStep()], **settings)
    assert [entry for entry in caplog.messages if entry.startswith("Class weights")] == [line]
    caplog.clear()
    with caplog.at_level("INFO", "hf_finetune"):
        result = finetune(recipe, **settings)
    assert [entry for entry in caplog.messages if entry.startswith("Class weights")] == [line]
    assert any("it resumes from checkpoint-" in entry for entry in caplog.messages)
    assert "class_weights: balanced" in (tmp_path / "run" / "recipe.yaml").read_text()
    assert 0 <= result.metrics["test_accuracy"] <= 1


@pytest.mark.slow
def test_a_run_with_balanced_sampling_learns_the_small_class(uneven_folder, tmp_path, caplog):
    recipe = write_recipe(tmp_path, sampling="balanced", num_train_epochs=12, lr_milestones=[8])
    with caplog.at_level("INFO", "hf_finetune"):
        result = finetune(recipe, dataset=str(uneven_folder), output_dir=tmp_path / "run")
    (line,) = [entry for entry in caplog.messages if entry.startswith("Sampling")]
    assert line.endswith("from 0.571 times (blue, 21 images) to 3.67 times (red, 3 images).")
    assert result.metrics["test_balanced_accuracy"] > 0.9
