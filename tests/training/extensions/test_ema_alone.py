"""The moving average of weights, on a plain module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_finetune.errors import UserError
from hf_finetune.training.averages import update_average
from hf_finetune.training.extensions.ema import AveragedWeights
from tests.helpers.stub_loop import StubLoop, call


@pytest.fixture
def extension() -> AveragedWeights:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    model[1].bias.requires_grad = False
    extension = AveragedWeights(decay=0.75)
    extension.attach(StubLoop(model))
    extension.loop.state.global_step = 500  # after the warm-up of the decay
    return extension


def weight(extension: AveragedWeights) -> float:
    return extension.loop.model[0].weight.item()


def set_weight(extension: AveragedWeights, value: float) -> None:
    extension.loop.model[0].weight.data.fill_(value)


def test_the_formula() -> None:
    averages, weights = [torch.tensor([1.0, 2.0]), torch.tensor(0.0)], [torch.tensor([5.0, 2.0]), torch.tensor(8.0)]
    update_average(averages, weights, decay=0.75)
    assert averages[0].tolist() == [2.0, 2.0] and averages[1].item() == 2.0
    assert weights[0].tolist() == [5.0, 2.0]


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 5.0), (1.0, 1.0)])
def test_the_ends_of_the_decay(decay: float, expected: float) -> None:
    update_average(averages := [torch.tensor([1.0])], [torch.tensor([5.0])], decay)
    assert averages[0].item() == expected


def test_it_begins_with_the_weights_and_the_model_ends_with_it(extension: AveragedWeights) -> None:
    set_weight(extension, 1.0)
    call(extension, "train_begin")
    set_weight(extension, 5.0)
    call(extension, "step_end")
    assert weight(extension) == 5.0 and extension.state_dict()["0.weight"].item() == 2.0
    assert set(extension.state_dict()) == {"0.weight", "1.weight"}  # what is trained
    call(extension, "train_end")
    assert weight(extension) == 2.0 and extension.state_dict() == {}


def test_an_evaluation_sees_it_and_the_training_does_not(extension: AveragedWeights) -> None:
    set_weight(extension, 1.0)
    call(extension, "train_begin")
    set_weight(extension, 5.0)
    with pytest.raises(KeyError), extension.evaluating():
        assert weight(extension) == 1.0
        raise KeyError  # whatever ends the evaluation
    assert weight(extension) == 5.0
    call(extension, "train_end")
    with extension.evaluating():
        assert weight(extension) == 1.0  # after the training the model has it for good


def test_a_resumed_run_takes_it_up(extension: AveragedWeights) -> None:
    saved = {"0.weight": torch.tensor([[3.0]]), "1.weight": torch.tensor([4.0])}
    extension.load_state_dict(saved)
    call(extension, "train_begin")
    set_weight(extension, 7.0)
    call(extension, "step_end")
    assert extension.state_dict()["0.weight"].item() == 4.0
    assert saved["0.weight"].item() == 3.0


def test_the_best_checkpoints_takes_its_place(extension: AveragedWeights) -> None:
    call(extension, "train_begin")
    extension.load_best({"0.weight": torch.tensor([[3.0]]), "1.weight": torch.tensor([4.0])})
    call(extension, "train_end")
    assert weight(extension) == 3.0


@pytest.mark.parametrize(
    "state",
    [{}, {"0.weight": torch.zeros(1, 1)}, {"0.weight": torch.zeros(2, 1), "1.weight": torch.zeros(1)}],
)
def test_another_models_is_refused(extension: AveragedWeights, state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match="has no average of these weights"):
        extension.load_state_dict(state)
