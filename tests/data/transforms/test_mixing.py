"""MixUp and CutMix: what torchvision would make of the same draws, with draws of the right distribution."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import scipy.stats
import torch
from torch.nn import functional
from torchvision.transforms import v2

from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.data.transforms.mixing import Mixing, beta_draw, beta_quantiles
from hf_finetune.data.transforms.randomness import draw_keys, uniform_draws
from hf_finetune.errors import UserError
from hf_finetune.training.loss import classification_loss

CLASSES = 5


def batch(first: int = 0, count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images = torch.rand(count, 3, 12, 20, generator=torch.Generator().manual_seed(first))
    return images, torch.arange(count) % CLASSES, draw_keys(0, 0, torch.arange(first, first + count))


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha: float):
    draws = [float(beta_draw(alpha, draw)) for draw in uniform_draws(draw_keys(0, 0, torch.arange(2000)), 0, 1)[:, 0]]
    assert scipy.stats.kstest(draws, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01
    quantiles = beta_quantiles(alpha, torch.device("cpu"))
    assert quantiles[0] == 0 and quantiles[-1] == 1


def test_mixup_is_torchvisions_for_the_same_share():
    images, labels, keys = batch()
    mixed, targets = Mixing([v2.MixUp(alpha=0.8)], [1.0], stream=3)(images, labels, keys, CLASSES)
    share = float(beta_draw(0.8, uniform_draws(keys[:1], 3, 4)[0, 1]))
    reference = v2.MixUp(alpha=0.8, num_classes=CLASSES)
    reference.make_params = lambda inputs: {"lam": share}
    expected = reference(images, labels)
    assert 0 < share < 1
    torch.testing.assert_close(mixed, expected[0])
    torch.testing.assert_close(targets, expected[1])


@pytest.mark.parametrize("first", range(0, 60, 4))
def test_cutmix_is_torchvisions_for_the_same_box(first: int, monkeypatch: pytest.MonkeyPatch):
    images, labels, keys = batch(first)
    mixed, targets = Mixing([v2.CutMix(alpha=1.0)], [1.0], stream=0)(images, labels, keys, CLASSES)
    draws = uniform_draws(keys[:1], 0, 4)[0]
    reference = v2.CutMix(alpha=1.0, num_classes=CLASSES)
    reference._dist = SimpleNamespace(sample=lambda shape: beta_draw(1.0, draws[1]))
    places = iter((draws[2:3], draws[3:4]))
    monkeypatch.setattr(torch, "randint", lambda high, size: (next(places) * high).floor().long())
    expected = reference(images, labels)
    torch.testing.assert_close(mixed, expected[0])
    torch.testing.assert_close(targets, expected[1])


def test_a_choice_is_taken_as_often_as_it_says():
    choice = {"RandomChoice": {"transforms": ["MixUp", "CutMix", "Identity"], "p": [0.5, 0.2, 0.3]}}
    mixing = build_train_transforms([choice], uniform=True).mixing
    kinds = {"whole": 0, "boxes": 0, "blended": 0}
    images = torch.eye(2).repeat_interleave(3, dim=0)[:, :, None, None].expand(6, 2, 8, 8)[[0, 3]]
    for first in range(0, 1000):
        share = mixing(images, torch.tensor([0, 1]), draw_keys(0, 0, torch.tensor([first, 0])), 2)[0][0, 0]
        kinds["whole" if (share == 1).all() else "boxes" if (share.frac() == 0).all() else "blended"] += 1
    # A box may be empty, and then nothing is mixed.
    assert 450 < kinds["blended"] < 550 and 130 < kinds["boxes"] <= 230 and 280 < kinds["whole"] < 400, kinds


def test_draws_are_those_of_the_batchs_first_image():
    images, labels, keys = batch()
    mixing = Mixing([v2.MixUp(alpha=1.0)], [1.0], stream=0)
    again = mixing(images, labels, keys, CLASSES)
    assert all(torch.equal(*pair) for pair in zip(mixing(images, labels, keys, CLASSES), again, strict=True))
    other = mixing(images, labels, draw_keys(0, 1, torch.arange(4)), CLASSES)
    assert not torch.equal(other[0], again[0])


def test_the_loss_of_mixed_labels_is_torchs_and_leaves_out_what_does_not_count():
    logits, generator = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(0)), torch.Generator()
    targets = torch.rand(4, CLASSES, generator=generator.manual_seed(1))
    targets /= targets.sum(1, keepdim=True)
    loss = classification_loss(0.1)
    outputs = SimpleNamespace(logits=logits)
    expected = functional.cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum") / 4
    torch.testing.assert_close(loss(outputs, targets, 4), expected)
    hard = torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(loss(outputs, functional.one_hot(hard, CLASSES).float(), 4), loss(outputs, hard, 4))
    _, of_none = Mixing([v2.Identity()], [1.0], 0)(*batch()[:1], torch.tensor([0, -100, 2, 3]), batch()[2], CLASSES)
    assert of_none[1].sum() == 0
    torch.testing.assert_close(loss(outputs, of_none, 3), loss(outputs, torch.tensor([0, -100, 2, 3]), 3))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["MixUp", "RandomHorizontalFlip"], "as the last of the list"),
        (["CutMix", "MixUp"], "as the last of the list"),
        ([{"RandomApply": {"transforms": ["MixUp"]}}], "MixUp and CutMix stand alone"),
        ([{"RandomChoice": {"transforms": ["MixUp", "RandomHorizontalFlip"]}}], "MixUp and CutMix stand alone"),
        ([{"MixUp": {"alpha": 0}}], "the alpha of MixUp is 0; use a number above 0"),
        ([{"RandomChoice": {"transforms": ["MixUpp"]}}], 'Did you mean "MixUp"?'),
        ([{"RandomChoice": {"transforms": ["MixUp", "CutMix"], "p": [1]}}], "RandomChoice: Length of p"),
    ],
)
def test_mistakes_are_one_line(items: list, message: str):
    with pytest.raises(UserError) as error:
        build_train_transforms(items, uniform=True)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_run_that_mixes_is_still_one_label_a_image(image_folder: Path, tmp_path: Path):
    from hf_finetune import finetune
    from tests.helpers.tiny import write_recipe

    recipe = str(write_recipe(tmp_path))
    choice = {"RandomChoice": {"transforms": [{"MixUp": {"alpha": 0.8}}, "CutMix"]}}
    results = [
        finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / name), train_transforms=items)
        for name, items in (("plain", []), ("mixed", [choice]), ("again", [choice]))
    ]
    assert results[1].model.config.problem_type is None
    losses = [result.metrics["train_loss"] for result in results]
    assert losses[0] != losses[1] == losses[2]
