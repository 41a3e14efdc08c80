"""The arithmetic of the losses, against torchvision, timm and the formulas of the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from hf_finetune.losses import COSINE_SCALE, LOSSES, arcface, asymmetric, bce, cross_entropy, focal, loss_settings

CLASSES = 5
LABELS = torch.arange(12) % CLASSES
ONE_HOT = functional.one_hot(LABELS, CLASSES).float()
MIXED = 0.7 * ONE_HOT + 0.3 * ONE_HOT.roll(1, 0)
LOGITS = 3 * torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
@pytest.mark.parametrize("targets", [ONE_HOT, MIXED], ids=["class ids", "mixed"])
def test_focal_is_torchvisions(targets, gamma, alpha):
    expected = sigmoid_focal_loss(LOGITS, targets, alpha=alpha, gamma=gamma).sum(dim=1)
    torch.testing.assert_close(focal(LOGITS, targets, 0.0, gamma=gamma, alpha=alpha), expected)


def test_the_defaults_of_focal_are_torchvisions():
    torch.testing.assert_close(focal(LOGITS, LABELS, 0.0), sigmoid_focal_loss(LOGITS, ONE_HOT).sum(dim=1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_is_timms_sum_over_the_classes(smoothing):
    losses = pytest.importorskip("timm.loss")
    theirs = losses.BinaryCrossEntropy(smoothing=smoothing, sum_classes=True)
    expected = torch.stack([theirs(LOGITS[[row]], LABELS[[row]]) for row in range(len(LABELS))])
    torch.testing.assert_close(bce(LOGITS, LABELS, smoothing), expected)
    torch.testing.assert_close(bce(LOGITS, MIXED, 0.0).mean(), theirs(LOGITS, MIXED))


@pytest.mark.parametrize("settings", [{}, {"gamma_positive": 0.0, "clip": 0.0}, {"gamma_negative": 2.5, "clip": 0.2}])
@pytest.mark.parametrize("targets", [ONE_HOT, MIXED], ids=["class ids", "mixed"])
def test_asymmetric_is_timms(targets, settings):
    losses = pytest.importorskip("timm.loss")
    names = {"gamma_positive": "gamma_pos", "gamma_negative": "gamma_neg", "clip": "clip"}
    theirs = losses.AsymmetricLossMultiLabel(**{names[name]: value for name, value in settings.items()})
    expected = torch.stack([theirs(LOGITS[[row]], targets[[row]]) for row in range(len(targets))])
    torch.testing.assert_close(asymmetric(LOGITS, targets, 0.0, **settings), expected)


def test_the_formulas_of_the_papers_for_one_image_of_two_classes():
    logits, label = torch.tensor([[0.4, -1.2]]), torch.tensor([0])
    yes, other = 1 / (1 + math.exp(-0.4)), 1 / (1 + math.exp(1.2))
    assert bce(logits, label, 0.0).item() == pytest.approx(-math.log(yes) - math.log(1 - other))
    by_hand = -0.25 * (1 - yes) ** 2 * math.log(yes) - 0.75 * other**2 * math.log(1 - other)
    assert focal(logits, label, 0.0).item() == pytest.approx(by_hand)
    shifted = max(other - 0.05, 0)  # equation 5 of the asymmetric loss
    by_hand = -(1 - yes) * math.log(yes) - shifted**4 * math.log(1 - shifted)
    assert asymmetric(logits, label, 0.0).item() == pytest.approx(by_hand)


def test_arcface_is_cross_entropy_with_a_larger_angle():
    angles = torch.tensor([[0.3, 1.2, 2.0], [1.0, 3.0, 0.1]])
    farther = angles + 0.4 * torch.tensor([[1, 0, 0], [0, 0, 1]])
    labels = torch.tensor([0, 2])
    expected = functional.cross_entropy(COSINE_SCALE * farther.cos(), labels, reduction="none")
    torch.testing.assert_close(arcface(COSINE_SCALE * angles.cos(), labels, 0.0, margin=0.4), expected)
    torch.testing.assert_close(  # without a margin, or beyond pi, where the line takes over
        arcface(COSINE_SCALE * angles.cos(), labels, 0.1, margin=0.0),
        cross_entropy(COSINE_SCALE * angles.cos(), labels, 0.1),
    )
    beyond = COSINE_SCALE * torch.tensor([[-0.99, 0.5]])
    own = -0.99 - math.sin(0.5) * 0.5
    by_hand = -math.log(1 / (1 + math.exp(COSINE_SCALE * (0.5 - own))))
    assert arcface(beyond, torch.tensor([0]), 0.0).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("name", LOSSES)
def test_class_ids_are_shares_of_one_class_and_smoothing_spreads_them(name):
    loss = LOSSES[name]
    torch.testing.assert_close(loss(LOGITS, LABELS, 0.0), loss(LOGITS, ONE_HOT, 0.0))
    torch.testing.assert_close(loss(LOGITS, LABELS, 0.2), loss(LOGITS, 0.8 * ONE_HOT + 0.2 / CLASSES, 0.0))
    torch.testing.assert_close(loss(LOGITS, MIXED, 0.2), loss(LOGITS, 0.8 * MIXED + 0.2 / CLASSES, 0.0))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_where_an_image_is_learned_or_lost_altogether(name):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0], [0.0, 0.0]], requires_grad=True)
    settings = {setting: 0.5 for setting in loss_settings(name) if setting.startswith("gamma")}
    losses = LOSSES[name](logits, torch.zeros(3, dtype=torch.int64), 0.0, **settings)
    losses.sum().backward()
    assert losses.isfinite().all() and logits.grad.isfinite().all()
    assert logits.grad[1, 0] < 0  # what is lost is still learned from
