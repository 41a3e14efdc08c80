"""The probed head: the optimum itself, folded into the layer; when it is fitted, and when it is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification

from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.models.head import head_linear
from hf_finetune.models.load import LoadedModel
from hf_finetune.training.extensions.probed_start import ProbedStart
from hf_finetune.training.frozen import probe as head_probe
from hf_finetune.training.frozen.probe import fit_logistic_regression
from hf_finetune.training.given import Given
from hf_finetune.training.plan import plan_run
from hf_finetune.training.run import choose_recipe, prepare
from hf_finetune.training.start import choose_head_init
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.tiny import TINY_RESNET, tiny_timm, write_recipe

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def blobs(classes: int, count: int = 60, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different scale and offset, the last one dead, whose classes overlap."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), count)
    features = generator.normal(size=(len(labels), width)) + generator.normal(size=(classes, width))[labels]
    features = features * np.linspace(0.1, 3, width) + np.linspace(-50, 50, width)
    features[:, -1] = 7.0
    return features.astype(np.float32), labels


def optimum(features: np.ndarray, labels: np.ndarray, classes: int, strength: float) -> torch.Tensor:
    """The probabilities of multinomial logistic regression with L2, by another solver and in double precision."""
    inputs, targets = torch.tensor(features, dtype=torch.float64), torch.tensor(labels)
    inputs = (inputs - inputs.mean(0)) / inputs.var(0, correction=0).mean().sqrt()
    weight = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = functional.cross_entropy(inputs @ weight.T + bias, targets, reduction="sum") * strength
        loss = loss + weight.square().sum() / 2
        loss.backward()
        return loss

    solver.step(closure)
    return (inputs @ weight.T + bias).softmax(dim=1).detach()


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_it_is_the_optimum_on_raw_features(classes):
    features, labels = blobs(classes)
    weight, bias, accuracy = fit_logistic_regression(features, labels, features, labels, classes, [0.1])
    assert weight.shape == (classes, 5) and bias.shape == (classes,) and weight.dtype == bias.dtype == np.float32
    logits = features.astype(np.float64) @ weight.T.astype(np.float64) + bias
    # Of two classes scikit-learn fits the difference of the rows, whose square is twice the rows' sum of squares.
    expected = optimum(features, labels, classes, 0.1 if classes > 2 else 0.05)
    np.testing.assert_allclose(torch.tensor(logits).softmax(dim=1), expected, atol=5e-3)
    assert accuracy == np.mean(logits.argmax(axis=1) == labels) > 0.5


def test_the_strength_is_chosen_by_what_is_held_out():
    """Where the labels are noise, the strongest L2 predicts best; where they are clear, a weaker one does."""
    chosen = {}
    features, labels = blobs(3)
    for name, targets in (("noise", np.random.default_rng(1).permutation(labels)), ("clear", labels)):
        weight, _, _ = fit_logistic_regression(features[::2], targets[::2], features[1::2], targets[1::2], 3, STRENGTHS)
        chosen[name] = np.abs(weight * features.std(axis=0)).max()
    assert 3 * chosen["noise"] < chosen["clear"]


def test_weights_count_images_as_often():
    features, labels = blobs(3)
    weights = np.array([1, 3, 2])[labels]
    repeated = np.repeat(np.arange(len(labels)), weights)
    # The same centre and scale, of which the weights know nothing: both are folded into the layer.
    held_out = (features[::2], labels[::2], 3, [0.1])
    weighted = fit_logistic_regression(features, labels, *held_out, weights)
    mean, scale = features.mean(axis=0), np.sqrt(features.var(axis=0, dtype=np.float64).mean())
    inputs = (features - mean) / scale
    solver = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit(inputs[repeated], labels[repeated])
    logits = features @ weighted[0].T + weighted[1]
    np.testing.assert_allclose(torch.tensor(logits).softmax(dim=1), solver.predict_proba(inputs), atol=5e-3)


def test_a_class_without_images_is_the_least_likely():
    features, labels = blobs(3)
    labels = np.where(labels == 1, 3, labels)  # classes 0, 2 and 3 of five
    weight, bias, _ = fit_logistic_regression(features, labels, features, labels, 5, STRENGTHS)
    logits = features @ weight.T + bias
    assert not weight[[1, 4]].any() and set(logits.argmax(axis=1)) == {0, 2, 3}


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=7)).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def prepared(image_folder, tmp_path, checkpoint, datasets_cache) -> Callable[..., ImageClassificationTrainer]:
    """Prepares a run with a probed head on the coloured images and returns its trainer."""

    def run(**settings: object) -> ImageClassificationTrainer:
        settings = {"model_name_or_path": str(checkpoint), "head_init": "probe", **settings}
        recipe = write_recipe(tmp_path, model_type=None, model_config=None)
        settings |= {"dataset": str(image_folder), "output_dir": str(tmp_path / "output")}
        return prepare(plan_run(choose_recipe(str(recipe), settings, str), Given())).trainer

    return run


@pytest.fixture
def probed(prepared) -> Callable[..., torch.nn.Linear]:
    """Prepares a run with a probed head and returns the head."""
    return lambda **settings: head_linear(prepared(**settings).model)


@pytest.fixture
def probe(prepared) -> Callable[..., torch.Tensor]:
    """Prepares a run with a probed head and returns the head's weight."""
    return lambda **settings: head_linear(prepared(**settings).model).weight


def test_a_new_head_knows_the_classes_before_the_first_step(probe, capsys):
    first, second, random = probe(), probe(), probe(head_init="random")
    # 7 of 72 images are held out for validation.
    lines = re.findall(r"Head: probed on (\d+) images in \d+ s, ([\d.]+)% of (\d+) held out", capsys.readouterr().out)
    assert len(lines) == 2 and lines[0] == lines[1]
    assert int(lines[0][0]) + int(lines[0][2]) == 65 and float(lines[0][1]) > 80
    assert torch.equal(first, second) and not torch.equal(first, random)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "probed", "watched"),
    [
        ({}, True, True),
        ({"head_init": "probe"}, True, True),
        ({"freeze": ["backbone"]}, True, False),  # the start is the optimum already
        ({"validation_fraction": 0.0}, True, False),
        ({"pretrained": False}, False, False),
        ({"head_init": "random"}, False, False),
    ],
)
def test_the_head_is_probed_wherever_it_can_be(prepared, capsys, settings, probed, watched):
    trainer = prepared(**{"head_init": "auto", **settings})
    assert ("Head: probed on" in capsys.readouterr().out) == probed
    assert trainer.extensions.find(ProbedStart).watches == watched


def test_the_head_of_a_stream_is_not_probed_unless_asked():
    plan = SimpleNamespace(
        recipe=SimpleNamespace(values={}), model=ModelArguments(model_type="lenet5", head_init="auto"),
        data=DataArguments(streaming=True), args=SimpleNamespace(time_budget=None),
    )  # fmt: skip
    model = ResNetForImageClassification(ResNetConfig(**TINY_RESNET))
    assert choose_head_init(plan, LoadedModel(model, frozenset({"classifier.1.bias"}), "")) == "random"


def test_of_many_images_a_sample_is_taken(probe, monkeypatch, capsys):
    monkeypatch.setattr(head_probe, "IMAGES", 30)
    probe()
    assert re.search(r"Head: probed on 27 images in \d+ s, [\d.]+% of 3 held out", capsys.readouterr().out)


def test_features_of_a_frozen_backbone_are_used_again(probe, images_seen):
    settings = {"freeze": ["backbone"], "train_transforms": None}
    first = probe(**settings)
    images_seen.clear()
    assert torch.equal(first, probe(**settings))
    assert sum(images_seen) <= 10  # the sanity check's
    # Images that are not kept give the same features, and their head is the same.
    torch.testing.assert_close(probe(freeze=["resnet"]), first)
    # Where the backbone is trained after it, the head's weights are kept small.
    assert probe(train_transforms=None).norm() < first.norm() / 2


def test_a_timm_model(probe, tmp_path, capsys):
    tiny_timm(num_labels=5).save_pretrained(tmp_path / "timm")
    probe(model_name_or_path=str(tmp_path / "timm"), image_size=16)
    assert "Head: probed" in capsys.readouterr().out


def test_a_head_that_is_kept_is_not_probed(probe, tmp_path, capsys):
    model = ResNetForImageClassification(ResNetConfig(**TINY_RESNET, id2label={0: "blue", 1: "green", 2: "red"}))
    model.save_pretrained(tmp_path / "trained")
    weight = probe(model_name_or_path=str(tmp_path / "trained"))
    assert "Head: the checkpoint's own is kept, so it is not probed." in capsys.readouterr().out
    assert torch.equal(weight, model.classifier[1].weight)


def test_too_few_images_leave_the_head_as_it_is(probe, capsys):
    probe(max_train_samples=1)
    assert "Head: not probed, because the training images do not show two of each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--head_init", "prob"), 'head_init is "prob". Did you mean "probe"? Use one of random, probe, auto,'),
        (
            ("--head_init", "probe", "--model_type", "lenet5", "--model_config", "null", "--image_size", "32"),
            "head_init: probe needs a head with one linear layer that gives the logits, which"
            " LeNet5ForImageClassification has not; use --head_init random.",
        ),
    ],
)
def test_mistakes(refused, words, message):
    assert message in refused(*words)


def test_it_follows_what_evens_out_the_classes(probed, monkeypatch):
    plain = probed(class_weights=[1, 1, 1])
    adjusted = probed(logit_adjustment=1)  # of 21, 22 and 22 images
    assert torch.equal(adjusted.weight, plain.weight)
    torch.testing.assert_close(adjusted.bias, plain.bias - torch.tensor([21, 22, 22]).div(65).log())
    given = []
    monkeypatch.setattr(
        head_probe, "fit_logistic_regression", lambda *words: given.append(words) or fit_logistic_regression(*words)
    )
    probed(class_weights={"red": 5})
    probed(class_weights={"red": 5}, sampling="weighted")
    (_, labels, *_, weights, _), (_, _, *_, of_sampling, _) = given
    assert weights.tolist() == [5 if label == 2 else 1 for label in labels]
    # 9, 9 and 47 times of 65.
    assert {round(value, 3) for value in of_sampling} == {0.429, 0.409, 2.136}
    assert not torch.equal(probed(class_weights={"red": 5}).weight, plain.weight)
