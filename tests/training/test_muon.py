"""Muon: its arithmetic against torch's own and against AdamW, what it trains by which rule, and a resume."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_finetune.training.muon import Muon, muon_matrices, orthogonalize
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer

CONVNEXT_LAYER = "convnext.encoder.stages.0.layers.0"
SETTINGS = {"lr": 0.02, "momentum": 0.95, "nesterov": True}


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ orthogonalize(matrix) @ right.T
    assert values.diagonal().min() > 0.5 and values.diagonal().max() < 1.5
    assert (values - torch.diag(values.diagonal())).abs().max() < 1e-4


def test_nothing_is_made_of_no_gradient() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5))


def gradients(parameter: torch.Tensor, steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(parameter.shape, generator=generator) for _ in range(steps)]


def train(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, steps: list[torch.Tensor]) -> torch.Tensor:
    for gradient in steps:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def test_a_matrix_moves_as_with_torch_s_muon() -> None:
    stock = getattr(torch.optim, "Muon", None)
    if stock is None:
        pytest.skip("this torch has no Muon")
    start = torch.randn(8, 20, generator=torch.Generator().manual_seed(2))
    own, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    steps = gradients(start, 4)
    moved = train(Muon([own], **SETTINGS, weight_decay=0.1, matrices=[own]), own, steps)
    expected = train(stock([other], **SETTINGS, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), other, steps)
    # torch's iteration is in bfloat16 on every device
    torch.testing.assert_close(moved - start, expected - start, atol=2e-3, rtol=0.05)


def test_a_filter_is_a_row() -> None:
    start = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    filters, rows = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    steps = gradients(start, 2)
    moved = train(Muon([filters], **SETTINGS, matrices=[filters]), filters, steps)
    expected = train(Muon([rows], **SETTINGS, matrices=[rows]), rows, [step.flatten(1) for step in steps])
    torch.testing.assert_close(moved.flatten(1), expected)


def test_all_else_moves_as_with_adamw() -> None:
    start = torch.randn(3, 5, generator=torch.Generator().manual_seed(4))
    own, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    steps = gradients(start, 3)
    moved = train(Muon([own], **SETTINGS, weight_decay=0.1, betas=(0.8, 0.9), matrices=[]), own, steps)
    expected = train(torch.optim.AdamW([other], lr=0.02, weight_decay=0.1, betas=(0.8, 0.9)), other, steps)
    assert torch.equal(moved, expected)


def test_what_has_no_gradient_stays() -> None:
    matrix, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = Muon([matrix, bias], **SETTINGS, weight_decay=0.5, matrices=[matrix])
    optimizer.step()
    assert matrix.eq(1).all() and bias.eq(1).all() and not optimizer.state


def test_loaded_state_goes_on_as_the_saved_one() -> None:
    matrix, bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    optimizer = Muon([matrix, bias], **SETTINGS, matrices=[matrix])
    matrix.grad, bias.grad = torch.randn(2, 3), torch.randn(3)
    optimizer.step()
    twins = [nn.Parameter(matrix.detach().clone()), nn.Parameter(bias.detach().clone())]
    other = Muon(twins, **SETTINGS, matrices=twins[:1])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twins[0].grad, twins[1].grad = matrix.grad.clone(), bias.grad.clone()
    optimizer.step(), other.step()
    assert torch.equal(matrix, twins[0]) and torch.equal(bias, twins[1])


@pytest.mark.parametrize(
    ("family", "inside", "outside"),
    [
        ("resnet", "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight", "classifier.1.weight"),
        ("vit", "vit.embeddings.patch_embeddings.projection.weight", "vit.embeddings.position_embeddings"),
        ("convnext", f"{CONVNEXT_LAYER}.pwconv1.weight", f"{CONVNEXT_LAYER}.dwconv.weight"),
    ],
)  # fmt: skip
def test_matrices_are_those_of_dense_layers_before_the_head(family: str, inside: str, outside: str) -> None:
    model = make_model(family)
    chosen = {id(matrix) for matrix in muon_matrices(model)}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in chosen}
    every = {name for name, _ in model.named_parameters()}
    assert {inside, outside} <= every and inside in names and outside not in names
    assert not any("classifier" in name or name.endswith("bias") or "norm" in name for name in names)


@pytest.mark.slow
def test_a_run_learns_and_a_resumed_one_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    settings = {"optim": "muon", "learning_rate": 0.01, "save_strategy": "steps", "save_steps": 8, "max_steps": 16}
    whole, parts = make_model("resnet"), make_model("resnet")
    trainer = make_trainer(tmp_path, whole, **settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert trainer.args.optim.value == "muon"
    make_trainer(tmp_path, parts, **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
