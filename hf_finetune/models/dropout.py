"""Stochastic depth in the backbone, and dropout before the last layer of the head: both in training only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import dropout
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from hf_finetune.errors import UserError, first_line
from hf_finetune.models.head import logits_layer
from hf_finetune.models.quiet import without_weights

# The name of the rate in all configurations of Transformers that have one, and of timm's argument.
_RATE = "drop_path_rate"
_NOT_SETTABLE = ("levit",)  # whose configuration takes whole numbers only
_TIMM_EXAMPLE = "timm/vit_base_patch16_224.augreg_in21k_ft_in1k"


def set_drop_path(config: PreTrainedConfig, rate: float, settings: Mapping[str, Any]) -> None:
    """Set the rate of stochastic depth (Huang et al., 2016, arXiv:1603.09382) in a network's configuration.

    Families that drop later blocks more often, as most do, take it as the rate of the last block.

    Args:
        config: The configuration, which is changed.
        rate: The probability that a block is left out of a training step, from 0 to below 1.
        settings: The recipe's `model_config`.

    Raises:
        UserError: The network has no stochastic depth, or `settings` states its rate as well.
    """
    if _RATE in settings or _RATE in (settings.get("model_args") or {}):
        raise UserError(f"drop_path and {_RATE} in model_config are the same; leave one out.")
    if config.model_type == "timm_wrapper":
        config.model_args = {**(config.model_args or {}), _RATE: rate}
        _check_timm(config, rate)
        return
    if not hasattr(config, _RATE) or config.model_type in _NOT_SETTABLE:
        raise UserError(
            f"drop_path: {config.model_type} has no stochastic depth; leave drop_path out, or use a network that has"
            f" it: {', '.join(_families())}, or most of timm's, such as {_TIMM_EXAMPLE}."
        )
    own = getattr(config, _RATE)
    # CvT has a rate for each stage, of which the last alone is above 0 in its paper's networks.
    setattr(config, _RATE, [0.0] * (len(own) - 1) + [rate] if isinstance(own, (list, tuple)) else rate)


def _families() -> list[str]:
    kinds = {kind.model_type for kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING if hasattr(kind, _RATE)}
    return sorted(kinds.difference(_NOT_SETTABLE))


def _check_timm(config: PreTrainedConfig, rate: float) -> None:
    """Raise `UserError` where a network of timm does not take the rate, or does nothing with it."""
    reason = "no layer of it drops blocks"
    try:
        modules = without_weights(config).modules()
        if not rate or any(type(module).__name__ == "DropPath" for module in modules):
            return
    except (AssertionError, TypeError, ValueError) as error:
        reason = first_line(error).rstrip(".")
    raise UserError(
        f"drop_path: timm's {config.architecture} has no stochastic depth ({reason}); leave drop_path out, or use"
        f" another network, such as {_TIMM_EXAMPLE}."
    )


class HeadDropout:
    """A hook that drops features before the last linear layer in training. It is not part of what is saved.

    Args:
        rate: The probability that a feature is set to 0.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if not module.training:
            return None
        return dropout(inputs[0], self.rate), *inputs[1:]


def drop_features(model: PreTrainedModel, rate: float) -> None:
    """Let a network drop features before the layer that gives the logits, in training only.

    Args:
        model: The network, with what is frozen frozen. An earlier rate is replaced.
        rate: The probability that a feature is set to 0, from 0 to below 1.

    Raises:
        UserError: The logits do not come from one linear layer, or it is frozen.
    """
    layer = logits_layer(model)
    if layer is None:
        raise UserError(
            f"head_dropout needs a head with one linear layer that gives the logits, which {type(model).__name__} has"
            " not; leave head_dropout out."
        )
    if not layer.weight.requires_grad:
        raise UserError("head_dropout is for a head that is trained, and freeze holds it; leave head_dropout out.")
    for key in [key for key, hook in layer._forward_pre_hooks.items() if isinstance(hook, HeadDropout)]:
        del layer._forward_pre_hooks[key]
    layer.register_forward_pre_hook(HeadDropout(rate))
