"""Which part of a classifier is its head."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import UserError
from hf_finetune.models.load import head_parameter_names


def head_module(model: PreTrainedModel) -> nn.Module | None:
    """Returns the outermost module that holds the head's parameters and no others; None where several share them."""
    head = head_parameter_names(model)
    for name, module in model.named_modules():  # a module before those inside it
        own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
        if own and own <= head:
            return module if own == head else None
    return None


def head_linear(model: PreTrainedModel) -> nn.Linear:
    """Returns the linear layer that gives the logits. Raises `UserError` where the head is not made of one alone."""
    head = head_parameter_names(model)
    layers = [
        module for name, module in model.named_modules() if isinstance(module, nn.Linear) and f"{name}.weight" in head
    ]
    if len(layers) != 1 or layers[0].bias is None or layers[0].out_features != model.config.num_labels:
        raise UserError(
            "head_init: probe needs a head with one linear layer that gives the logits, which"
            f" {type(model).__name__} has not; use --head_init random."
        )
    return layers[0]
