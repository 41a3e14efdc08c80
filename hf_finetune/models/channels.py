"""How many channels a network takes, and networks of one channel that are given RGB and see its luminance.

`pipeline` gives RGB to all. While it is trained such a network keeps its one channel, and a hook reduces its input. It
is saved with three channels: the first convolution of the luminance is a convolution of RGB whose kernels are weighted
like the colours. So
`pipeline` needs nothing else. The two differ by rounding alone, also at the edges, where zeros are added to normalized
pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.data.images.bands import count_channels
from hf_finetune.errors import UserError
from hf_finetune.models.lenet5 import LUMINANCE_WEIGHTS


def image_channels(config: PreTrainedConfig) -> int | None:
    """Return how many channels of an image a network was trained on, as they are stored; None for images in RGB."""
    channels: int | None = getattr(config, "image_channels", None)
    return channels


def channels_of(config: PreTrainedConfig) -> int:
    """Return how many channels the first layer of a network takes."""
    holder = _holder(config)
    if holder.model_type == "timm_wrapper":
        return int((holder.model_args or {}).get("in_chans", 3))
    return int(getattr(holder, "num_channels", 3))


def set_channels(config: PreTrainedConfig, channels: int) -> None:
    """Let a network be built with a first layer for so many channels."""
    holder = _holder(config)
    if holder.model_type == "timm_wrapper":
        holder.model_args = {**(holder.model_args or {}), "in_chans": channels}
    else:
        holder.num_channels = channels


def check_channels(config: PreTrainedConfig) -> None:
    """Raise `UserError` for a network that does not take the channels of its images: one or three, where it sees RGB.

    Networks of images that are read as they are stored say so in their configuration (`image_channels`).
    """
    channels, wanted = channels_of(config), image_channels(config)
    if wanted is not None and channels != wanted:
        raise UserError(
            f"The network takes {count_channels(channels)}, but its config.json has image_channels {wanted}."
        )
    if wanted is None and channels not in (1, 3):
        raise UserError(
            f"The network takes {count_channels(channels)}, and images are read as RGB; use a network of 3 channels or"
            f" 1, such as --model_config '{{num_channels: 3}}', or --image_channels {channels} for images that have as"
            " many."
        )


def see_luminance(model: PreTrainedModel) -> None:
    """Let a network of one channel take RGB. Others, and those that do it themselves, are left alone.

    Raises:
        UserError: It could not be saved with three channels.
    """
    if has_one_channel(model):
        _input_weight(model)
        model.register_forward_pre_hook(_reduce_input, with_kwargs=True)


def has_one_channel(model: PreTrainedModel) -> bool:
    """Return whether a network has one channel, is given RGB and would not take it by itself."""
    of_rgb = image_channels(model.config) is None
    return of_rgb and channels_of(model.config) == 1 and not getattr(model, "takes_rgb", False)


def with_three_channels(
    model: PreTrainedModel, state_dict: Mapping[str, torch.Tensor] | None = None
) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """Return the configuration and the weights of a network of one channel as those of one that takes RGB.

    Args:
        model: The network, without wrappers.
        state_dict: Its weights, where it does not hold them all itself.
    """
    weights = dict(model.state_dict() if state_dict is None else state_dict)
    name = _input_weight(model)
    kernel = weights[name]
    weights[name] = kernel * kernel.new_tensor(LUMINANCE_WEIGHTS)[:, None, None]
    return _config_of_three(model.config), weights


def _holder(config: PreTrainedConfig) -> Any:
    """Return the part of a configuration that has the number of channels."""
    nested = getattr(config, "vision_config", None)
    return config if nested is None or hasattr(config, "num_channels") else _holder(nested)


def _config_of_three(config: PreTrainedConfig) -> PreTrainedConfig:
    changed = copy.deepcopy(config)
    set_channels(changed, 3)
    return changed


def _input_weight(model: PreTrainedModel) -> str:
    """Return the name of the one tensor that depends on the number of channels: the kernels of the first convolution.

    Raises:
        UserError: There are other such tensors, or none.
    """
    with torch.device("meta"):
        network: Any = type(model)
        shapes = {name: tensor.shape for name, tensor in network(_config_of_three(model.config)).state_dict().items()}
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    differing = [name for name in {**own, **shapes} if own.get(name) != shapes.get(name)]
    if len(differing) == 1 and own.get(differing[0], ())[1:2] == (1,) and len(own[differing[0]]) == 4:
        return differing[0]
    raise UserError(
        f"{type(model).__name__} of 1 channel cannot be given RGB images; use 3 channels: --model_config"
        " '{num_channels: 3}'."
    )


def _reduce_input(
    _: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "pixel_values" in inputs:
        return args, {**inputs, "pixel_values": _luminance(inputs["pixel_values"])}
    return (_luminance(args[0]), *args[1:]), inputs


def _luminance(pixels: torch.Tensor) -> torch.Tensor:
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        return pixels
    return (pixels * pixels.new_tensor(LUMINANCE_WEIGHTS)[:, None, None]).sum(dim=1, keepdim=True)
