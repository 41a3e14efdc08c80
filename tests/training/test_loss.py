"""Losses by name: over parts of a batch, with images that do not count, mixed ones, and losses of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_finetune import finetune
from hf_finetune.errors import UserError
from hf_finetune.losses import LOSSES
from hf_finetune.training.given import Given
from hf_finetune.training.loss import BatchLoss, classification_loss, import_loss
from hf_finetune.training.plan import plan_run
from hf_finetune.training.run import choose_recipe, prepare
from tests.helpers.tiny import write_recipe

LABELS = torch.tensor([0, 2, 1, -100, 1, 0, 2, -100])
MODULE = """
import torch

class Squares(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, logits, labels):
        return self.scale * (logits.softmax(1) - torch.nn.functional.one_hot(labels, 3)).square().sum(1)

def squares(logits, labels, scale=1.0):
    return Squares(scale)(logits, labels)

def mean(logits, labels):
    return squares(logits, labels).mean()

number = 3
"""


@pytest.mark.parametrize("mixed", [False, True], ids=["class ids", "mixed"])
@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_add_up_and_what_does_not_count_adds_nothing(name, mixed):
    """As over accumulation steps and ranks, each of which divides by the images of the whole batch."""
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    labels, counted = LABELS, LABELS >= 0
    if mixed:
        labels = torch.nn.functional.one_hot(LABELS.clamp(min=0), 3).float() * counted[:, None]
        labels = 0.6 * labels + 0.4 * labels[[1, 0, 2, 3, 5, 4, 6, 7]]  # mixed among those that count
    loss = classification_loss(0.1, name)
    parts = (slice(0, 1), slice(1, 4), slice(4, 8))
    total = sum(loss(SimpleNamespace(logits=logits[part]), labels[part], torch.tensor(6)) for part in parts)
    expected = LOSSES[name](logits[counted], labels[counted], 0.1).mean()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(loss(SimpleNamespace(logits=logits), labels), expected)


@pytest.mark.parametrize("mixed", [False, True], ids=["class ids", "mixed"])
@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_class_weights_multiply_the_loss_of_each_share_of_an_image(name, mixed):
    """As MixUp defines it: share * weight * loss of each of the two classes. For cross entropy that is PyTorch's."""
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    weights, counted = torch.tensor([0.5, 3.0, 0.0]), LABELS >= 0
    one_hot = torch.nn.functional.one_hot(LABELS.clamp(min=0), 3).float() * counted[:, None]
    shares = 0.6 * one_hot + 0.4 * one_hot[[1, 0, 2, 3, 5, 4, 6, 7]] if mixed else one_hot
    of_class = torch.stack([LOSSES[name](logits, torch.full((8,), one), 0.0) for one in range(3)], dim=1)
    expected = (shares * weights * of_class).sum() / 6
    loss = BatchLoss(lambda logits, labels: LOSSES[name](logits, labels, 0.0), weights)
    labels = shares if mixed else LABELS
    parts = (slice(0, 1), slice(1, 4), slice(4, 8))
    total = sum(loss(SimpleNamespace(logits=logits[part]), labels[part], torch.tensor(6)) for part in parts)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(loss(SimpleNamespace(logits=logits), labels), expected)
    if name == "cross_entropy":
        theirs = torch.nn.CrossEntropyLoss(weight=weights, reduction="sum")
        torch.testing.assert_close(theirs(logits, labels if mixed else LABELS) / 6, expected)


def test_settings_reach_the_loss():
    logits, labels = torch.tensor([[0.3, -1.0]]), torch.tensor([0])
    ours = classification_loss(0.0, "focal", {"gamma": 0.0, "alpha": 0.5})(SimpleNamespace(logits=logits), labels)
    torch.testing.assert_close(ours, LOSSES["bce"](logits, labels, 0.0)[0] / 2)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_losses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_module")
def test_a_dotted_name_is_a_function_or_a_class():
    logits, labels = torch.eye(3), torch.tensor([0, 1, 2])
    expected = import_loss("own_losses.squares", {})(logits, labels)
    torch.testing.assert_close(import_loss("own_losses.Squares", {"scale": 2.0})(logits, labels), 2 * expected)
    torch.testing.assert_close(import_loss("own_losses.squares", {"scale": 2.0})(logits, labels), 2 * expected)


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("absent_module.loss", {}, "absent_module.loss cannot be imported: No module named 'absent_module'; it is"),
        ("own_losses.absent", {}, "own_losses.absent cannot be imported"),
        ("own_losses.number", {}, "own_losses.number is int; use a function of (logits, labels), or a class."),
        ("own_losses.Squares", {"gamma": 1}, "own_losses.Squares cannot be made with these loss_args"),
    ],
)
def test_a_dotted_name_that_is_no_loss_is_one_line(name, settings, message):
    with pytest.raises(UserError) as refused:
        import_loss(name, settings)
    assert str(refused.value).startswith(f"loss: {message}") and "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.usefixtures("own_module")
def test_a_run_with_a_loss_of_ones_own_is_that_with_the_function(tmp_path, image_folder):
    from own_losses import squares

    def figures(name, **settings):
        recipe = write_recipe(tmp_path, num_train_epochs=1)
        return finetune(recipe, dataset=str(image_folder), output_dir=tmp_path / name, **settings).metrics

    by_name = figures("name", loss="own_losses.Squares", loss_args={"scale": 1.0})
    assert by_name["train_loss"] == figures("object", loss=squares)["train_loss"]
    assert "loss: own_losses.Squares" in (tmp_path / "name" / "recipe.yaml").read_text()
    with pytest.raises(UserError, match="it returned .* for 2 images; return one loss for each image"):
        figures("mean", loss="own_losses.mean")


@pytest.mark.slow
def test_a_class_of_the_users_own_is_made_once(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "counted_losses.py").write_text(
        "from torch.nn import functional\n"
        "made = []\n"
        "class Counted:\n"
        "    def __init__(self): made.append(1)\n"
        "    def __call__(self, logits, labels): return functional.cross_entropy(logits, labels, reduction='none')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"loss": "counted_losses.Counted", "dataset": str(image_folder), "output_dir": str(tmp_path / "run")}
    recipe = choose_recipe(str(write_recipe(tmp_path)), settings, "--{}".format)
    prepare(plan_run(recipe, Given()))
    assert sys.modules["counted_losses"].made == [1]
