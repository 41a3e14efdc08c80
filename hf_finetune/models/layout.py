"""The order in memory of a network's weights: channels last, but where PyTorch would crash."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_finetune.logs import get_logger

logger = get_logger(__name__)

_NARROWEST = 16  # channels of one AVX-512 register of float32; narrower layers are hit


def use_channels_last(model: nn.Module, is_trained: bool) -> None:
    """Lay out a network's weights with the channels last, in place: convolutions are fastest so.

    Layers whose backward pass crashes in this layout on a CPU (`crashes_in_channels_last`) keep the ordinary layout,
    and are given their input in it, whatever the layout of the layers around them.

    Args:
        model: The network, on its device.
        is_trained: Whether there will be backward passes.
    """
    model.to(memory_format=torch.channels_last)
    kept = [name for name, module in model.named_modules() if is_trained and crashes_in_channels_last(module)]
    for name in kept:
        module = model.get_submodule(name)
        # `contiguous` returns a kernel of 1 x 1 as it is, because any strides fit it; PyTorch goes by the strides.
        for weight in module.parameters():
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        module.register_forward_pre_hook(_in_ordinary_layout)
    if kept:
        logger.info(
            f"Note: {len(kept)} convolution{'s' if len(kept) > 1 else ''} of 1 x 1 with a stride and fewer than"
            f" {_NARROWEST} input channels ({', '.join(kept[:3])}{', ...' if len(kept) > 3 else ''}) keep the ordinary"
            " layout, because PyTorch crashes on the CPU in channels_last there."
        )


def crashes_in_channels_last(module: nn.Module) -> bool:
    """Return whether the backward pass of a layer writes outside its memory if it is in channels_last.

    Found with torch 2.14.1 (oneDNN 3.12.0) on a CPU with AVX-512: `jit_1x1:avx512_core`, which computes the gradient of
    the weights of a convolution with a kernel of 1 x 1, a stride above 1 in either direction, one group, no padding and
    fewer than 16 input channels, ends with a segmentation fault or "corrupted size vs. prev_size", in float32 as in
    bfloat16, with one thread or two. It was tried on 1 to 100 input channels, 1 to 256 output channels, kernels of 1 to
    7, strides of 1 to 4, 1 to 8 groups, batches of 1 to 32 and images of 7 to 449 px, each in a process of its own;
    nothing else crashed. Sizes that the stride does not divide use another kernel of oneDNN, and small ones do not show
    the fault; the rule leaves both out, because a network may meet any size. See docs/reliability.md.

    Args:
        module: A layer.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.weight.device.type == "cpu"
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.groups == 1
        and module.in_channels < _NARROWEST
    )


def _in_ordinary_layout(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs[0].contiguous(), *inputs[1:]
