"""Pretrained networks for images of another number of channels: the kernels of the first layer are adapted.

The rule is that of timm (`adapt_input_conv` in timm/models/_manipulate.py, https://github.com/huggingface/pytorch-image-
models): for one channel the kernels of all channels are added up, so that a gray image gives what it gave in RGB; for
more, they are repeated in their order and scaled, so that features keep their size.
"""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import UserError, first_line
from hf_finetune.models.channels import channels_of, set_channels


def of_channels(config: PreTrainedConfig, own: PreTrainedConfig) -> PreTrainedConfig:
    """Return a configuration with the number of channels of another, itself where the two have the same.

    Args:
        config: The configuration of the network to build.
        own: The configuration that its weights were saved with.
    """
    if channels_of(config) == channels_of(own):
        return config
    changed = copy.deepcopy(config)
    set_channels(changed, channels_of(own))
    return changed


def adapt_kernel(kernel: torch.Tensor, channels: int) -> torch.Tensor:
    """Return the kernels of a first layer for another number of channels.

    Args:
        kernel: Float of shape (outputs, own channels, height, width).
        channels: The number of channels of the images.

    Returns:
        Float of shape (outputs, channels, height, width).
    """
    own = kernel.shape[1]
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    return kernel[:, torch.arange(channels) % own] * (own / channels)


def fit_channels(model: PreTrainedModel, config: PreTrainedConfig) -> tuple[PreTrainedModel, str]:
    """Return a network for the channels of `config`, with the weights of one for another number of them.

    Args:
        model: The network with its weights.
        config: The configuration that has the wanted number.

    Returns:
        The network, which is `model` itself where the numbers are the same, and a sentence on what was adapted.

    Raises:
        UserError: The network cannot be had for another number of channels.
    """
    own, wanted = channels_of(model.config), channels_of(config)
    if own == wanted:
        return model, ""
    changed = copy.deepcopy(model.config)
    set_channels(changed, wanted)
    try:
        adapted: PreTrainedModel = type(model)(changed)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _fixed(model, own, wanted, first_line(error)) from error
    weights, kernels = dict(model.state_dict()), list[str]()
    for name, tensor in adapted.state_dict().items():
        if weights[name].shape != tensor.shape:
            if weights[name].ndim != 4 or adapt_kernel(weights[name], wanted).shape != tensor.shape:
                raise _fixed(model, own, wanted, f"its {name} depends on their number")
            weights[name] = adapt_kernel(weights[name], wanted)
            kernels.append(name)
    if not kernels:
        raise _fixed(model, own, wanted, "no layer of it depends on their number")
    adapted.load_state_dict(weights)
    adapted.train(model.training)
    how = "added up" if wanted == 1 else f"repeated and scaled by {own}/{wanted}"
    return adapted, f" The first layer is adapted from {own} to {wanted} channels, its kernels {how}: {kernels[0]}."


def _fixed(model: PreTrainedModel, own: int, wanted: int, reason: str) -> UserError:
    return UserError(
        f"Images have {wanted} channels, but {type(model).__name__} with these weights takes {own} only ({reason}); use"
        " a network of another family, such as a ViT or a ResNet."
    )
