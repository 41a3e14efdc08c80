"""Muon, an optimizer that takes steps of the same size in all directions of a matrix, with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, overload

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from transformers import PreTrainedModel

from hf_finetune.models.head import head_parameter_names

# The coefficients of the quintic iteration, and its steps: Jordan et al. (see `Muon`).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


def muon_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the weights that Muon trains by its own rule: those of convolutions and linear layers before the head.

    A grouped convolution's weight is left out: it is not one matrix but one for each group, of a few rows.
    """
    head = head_parameter_names(model)
    chosen = []
    for name, module in model.named_modules():
        is_matrix = isinstance(module, nn.Linear) or (
            isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups == 1
        )
        if is_matrix and f"{name}.weight" not in head:
            chosen.append(module.weight)
    return chosen


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Return about the nearest matrix whose rows, or columns, are orthogonal and of length 1.

    Five Newton-Schulz iterations bring the singular values to between 0.5 and 1.5, which is enough for an optimizer.
    They are computed in bfloat16 on CUDA, in the matrix's own precision elsewhere.

    Args:
        matrix: Float, (rows, columns).

    Returns:
        Float of the same shape and dtype.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrix.size(0) > matrix.size(1)
    result = matrix.T if is_tall else matrix
    if matrix.is_cuda:
        result = result.bfloat16()
    result = result / result.norm().clamp(min=1e-7)  # no singular value is above 1
    for _ in range(_STEPS):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return (result.T if is_tall else result).to(matrix.dtype)


class Muon(Optimizer):
    """Train matrices by orthogonalized momentum and all other parameters by AdamW.

    After Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024,
    https://kellerjordan.github.io/posts/muon/). A filter of a convolution is a row of a matrix, as there. Each step is
    scaled by 0.2 * sqrt(max(rows, columns)), so that its root mean square is that of AdamW, and `lr` and `weight_decay`
    mean the same for both (Liu et al. 2025, arXiv:2502.16982, section 2.2).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float,
        nesterov: bool,
        matrices: Collection[nn.Parameter],
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """Create the optimizer.

        Args:
            params: Parameters, or groups of them with settings of their own.
            lr: Learning rate.
            momentum: Weight of the earlier gradients in a matrix's momentum.
            nesterov: Whether the current gradient is mixed into the momentum once more.
            matrices: The parameters that are trained by orthogonalized momentum, of two or more dimensions.
            weight_decay: Share of a weight that a step takes away, times `lr`.
            betas: AdamW's decay rates of the gradient's mean and of its square.
            eps: AdamW's term in the denominator.
        """
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "betas": betas}
            | {"eps": eps},
        )
        self._matrices = {id(matrix) for matrix in matrices}

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step, from gradients that are there; a parameter without one stays as it is.

        Args:
            closure: Computes the loss and its gradients anew.

        Returns:
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in trained:
                if id(parameter) in self._matrices:
                    self._move_matrix(parameter, group)
            self._move_others([parameter for parameter in trained if id(parameter) not in self._matrices], group)
        return loss

    def _move_matrix(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        rows = direction.flatten(1)
        scale = 0.2 * max(rows.shape) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(orthogonalize(rows).view_as(weight), alpha=-group["lr"] * scale)

    def _move_others(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(
                    exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                    step=torch.zeros(()),
                )
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],  # the maxima of AMSGrad
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
