"""Freezing, the backbone or modules by name.

What is frozen is not trained, and it behaves in training as in evaluation: BatchNorm keeps its statistics and dropout
is off. Without the second, the statistics would drift although the weights do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MethodType

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.models.load import head_parameter_names

BACKBONE = "backbone"  # the word of a recipe for everything that is not the head


@dataclass(frozen=True)
class Frozen:
    """What was frozen: whether it is the whole backbone, and one sentence on it, none for nothing."""

    backbone: bool
    report: tuple[str, ...]


def freeze_modules(model: PreTrainedModel, names: Sequence[str]) -> Frozen:
    """Freezes modules of a network by their names (`resnet.encoder.stages.0`), or all but its head by `backbone`.

    It holds through `model.train()`, copies and saving. Raises `UserError` for a name that the network has not, and
    where nothing would be left to train.
    """
    head = head_parameter_names(model)
    modules = dict(model.named_modules())
    for name in names:
        if name == BACKBONE:
            if len(head) == len(list(model.parameters())):
                raise UserError(
                    f"freeze: {type(model).__name__} does not say which part of it is the backbone; use the names of"
                    f" modules: {', '.join(child for child, _ in model.named_children())}."
                )
            for parameter_name, parameter in model.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and parameter_name in head)
            held = list(_modules_outside(model, {id(model.get_parameter(parameter)) for parameter in head}))
        elif name and name in modules:
            modules[name].requires_grad_(False)
            held = [modules[name]]
        else:
            raise UserError(
                f'freeze: {type(model).__name__} has no module "{name}".{did_you_mean(name, [BACKBONE, *modules])}'
                f" Use {BACKBONE}, or names such as {', '.join(list(modules)[1:3])}."
            )
        for module in held:
            module.eval()
            module.train = MethodType(_stay_in_evaluation, module)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze: {', '.join(names)} leaves nothing to train; use {BACKBONE} to train the head.")
    total = model.num_parameters()
    frozen = total - model.num_parameters(only_trainable=True)
    report = f"Frozen: {', '.join(names)}, {frozen:,} of {total:,} parameters."
    return Frozen(not trains_backbone(model), (report,) if names else ())


def trains_backbone(model: PreTrainedModel) -> bool:
    """Whether any parameter outside the head is trained."""
    head = head_parameter_names(model)
    return any(parameter.requires_grad for name, parameter in model.named_parameters() if name not in head)


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    """Takes the place of a frozen module's `train`, which `model.train()` calls on each of its parts."""
    return module


def _modules_outside(module: nn.Module, head: set[int]) -> Iterator[nn.Module]:
    """Yields the outermost modules that hold weights or statistics, and none of the parameters with the ids `head`."""
    for child in module.children():
        parameters = {id(parameter) for parameter in child.parameters()}
        if not parameters & head and (parameters or list(child.buffers())):
            yield child
        elif not parameters <= head:
            yield from _modules_outside(child, head)
