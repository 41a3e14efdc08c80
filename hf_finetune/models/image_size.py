"""Other image sizes for networks with position embeddings, which are interpolated once, when the weights are loaded."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch.nn.functional import interpolate
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import UserError, first_line
from hf_finetune.models.quiet import without_weights

# Families that learn one vector for each patch of a grid, or tie other tensors to it as LeViT does. All others take
# images of any size: convolutions, windows, and BEiT and DINOv2, which interpolate by themselves.
_RECTANGLES = ("vit", "deit", "vit_msn", "ijepa", "hiera", "levit")
_SQUARES = (  # whose code reads one side
    "clip", "metaclip_2", "siglip", "pvt", "clip_vision_model", "siglip_vision_model", "chinese_clip_vision_model",
    "mlcd_vision_model", "aimv2_vision_model",
)  # fmt: skip
_POSITIONS = ("position_embeddings", "position_embedding.weight", "pos_embed")
_PREFIX = 5  # the most vectors before those of the grid: a class token, one of distillation (DeiT), 4 registers


def match_image_size(config: PreTrainedConfig, sides: tuple[int, int], settings: Mapping[str, Any]) -> None:
    """Change the configuration of a network that is built for one image size, so that it takes images of `sides`.

    Networks that take any size are left as they are, and so is one whose size is among the recipe's settings.

    Args:
        config: The configuration, which is changed. timm's still has its own figures of images.
        sides: The height and the width of its images in pixels.
        settings: The recipe's `model_config`.

    Raises:
        UserError: The family takes squares only, or the patches do not divide the sides.
    """
    own = _sides(config)
    if own is None or own == sides or not {"image_size", "vision_config", "model_args"}.isdisjoint(settings):
        return
    if _family(config) in _SQUARES and sides[0] != sides[1]:
        raise UserError(
            f"image_size is {_shown(sides)}, but {_family(config)} takes squares; use --image_size {max(sides)}."
        )
    changed = copy.deepcopy(config)
    _set_sides(changed, sides)
    patch = _timm_patch(changed) if config.model_type == "timm_wrapper" else _patches(config)[-1]
    if patch is None:
        return  # the sanity check finds out whether it takes them without being told
    _set_sides(config, sides)
    if any(side % patch for side in sides):
        least = max(patch, min(sides) // patch * patch)
        raise UserError(
            f"image_size is {_shown(sides)}, which the network's patches of {patch} pixels do not divide; use"
            f" --image_size {least} or {least + patch}."
        )


def stated_sides(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return the height and the width that a recipe's `image_size` states, None where it states none."""
    return None if image_size is None else _pair(image_size)


def _timm_patch(config: PreTrainedConfig) -> int | None:
    """Return the pixels of a patch's side in a network of timm, 1 without patches; None where timm cannot build it."""
    try:
        network: Any = without_weights(config)
    except (AssertionError, ImportError, IndexError, RuntimeError, TypeError, ValueError):
        return None
    return _pair(getattr(getattr(network.timm_model, "patch_embed", None), "patch_size", 1))[0]


def of_size(config: PreTrainedConfig, own: PreTrainedConfig) -> PreTrainedConfig:
    """Return a configuration with the image size of another, itself where the two have the same.

    Args:
        config: The configuration of the network to build.
        own: The configuration that its weights were saved with.
    """
    sides = _sides(own)
    if sides is None or sides == _sides(config):
        return config
    changed = copy.deepcopy(config)
    _set_sides(changed, sides)
    return changed


def fit_positions(model: PreTrainedModel, config: PreTrainedConfig) -> tuple[PreTrainedModel, str]:
    """Return a network for the image size of `config`, with the weights of one for another size.

    Position embeddings are interpolated as Transformers and timm do it: bicubic, the class token and its like as they
    are.

    Args:
        model: The network with its weights.
        config: Its configuration, but for the image size.

    Returns:
        The network, which is `model` itself where the sizes are the same, and a sentence on what was interpolated.

    Raises:
        UserError: The network cannot be had for another image size.
    """
    own, sides = _sides(model.config), _sides(config)
    if own is None or sides is None or own == sides:
        return model, ""
    try:
        resized: PreTrainedModel = type(model)(config)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _fixed(config, own, sides, first_line(error)) from error
    weights, grids = dict(model.state_dict()), list[str]()
    for name, tensor in resized.state_dict().items():
        if name in weights and weights[name].shape != tensor.shape:
            weights[name], grid = _interpolated(name, weights[name], model, resized)
            if not grid:
                raise _fixed(config, own, sides, f"its {name} belongs to that size")
            grids += [grid] if grid not in grids else []
    resized.load_state_dict(weights)
    resized.train(model.training)
    if not grids:
        return resized, ""
    return resized, (
        f" Position embeddings interpolated from images of {_shown(own)} pixels to {_shown(sides)}: from a grid of"
        f" {', '.join(grids)}."
    )


def _interpolated(
    name: str, tensor: torch.Tensor, model: PreTrainedModel, resized: PreTrainedModel
) -> tuple[torch.Tensor, str]:
    """Return a tensor of `model` in the shape of `resized`, and its grids in words, "" where it cannot be had."""
    wanted = resized.get_parameter(name)
    is_timm = model.config.model_type == "timm_wrapper"
    owner, _, last = name.rpartition(".")
    if is_timm and last == "relative_position_bias_table":
        from timm.layers import resize_rel_pos_bias_table  # optional, and here only where a network is timm's

        before, after = _windows(model.get_submodule(owner)), _windows(resized.get_submodule(owner))
        table = resize_rel_pos_bias_table(tensor, after, tuple(wanted.shape))
        return table, f"{_shown(before)} to {_shown(after)}"
    if not name.endswith(_POSITIONS):
        return tensor, ""
    count = tensor.numel() // tensor.shape[-1]
    new_count = wanted.numel() // tensor.shape[-1]
    for before, after in zip(_grids(model), _grids(resized), strict=True):
        prefix = count - math.prod(before)
        if 0 <= prefix <= _PREFIX and new_count - math.prod(after) == prefix:
            positions = _resampled(tensor.reshape(count, -1), prefix, before, after, antialias=is_timm)
            return positions.reshape(wanted.shape), f"{_shown(before)} to {_shown(after)}"
    return tensor, ""


def _resampled(
    positions: torch.Tensor, prefix: int, before: tuple[int, int], after: tuple[int, int], antialias: bool
) -> torch.Tensor:
    """Interpolate the vectors of a grid, float of shape (count, dim); the first `prefix` of them stay as they are.

    timm smooths (`timm.layers.resample_abs_pos_embed`), Transformers does not (`interpolate_pos_encoding`).
    """
    grid = positions[prefix:].T.reshape(1, -1, *before)
    grid = interpolate(grid, size=after, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([positions[:prefix], grid.flatten(2)[0].T])


def _windows(attention: Any) -> tuple[int, int]:
    return _pair(attention.window_size)


def _fixed(config: PreTrainedConfig, own: tuple[int, int], sides: tuple[int, int], reason: str) -> UserError:
    name = config.architecture if config.model_type == "timm_wrapper" else _family(config)
    size = str(own[0]) if own[0] == own[1] else f"{own[0]} {own[1]}"
    return UserError(
        f"image_size is {_shown(sides)}, but {name} with these weights takes {_shown(own)} only ({reason}); use"
        f" --image_size {size}, or a network of another family, such as a ViT or a ResNet."
    )


def _sides(config: PreTrainedConfig) -> tuple[int, int] | None:
    """Return the height and the width that a network is built for, None where it takes any size."""
    if config.model_type == "timm_wrapper":
        figures: Any = getattr(config, "pretrained_cfg", None) or {}
        arguments = config.model_args or {}
        stated = arguments.get("img_size")
        if arguments.get("dynamic_img_size"):
            return None
        if not figures.get("fixed_input_size") and stated is None:
            return None
        return _pair(stated or (figures.get("input_size") or (3, 224, 224))[1:])
    if _family(config) not in (*_RECTANGLES, *_SQUARES):
        return None
    return _pair(_holder(config).image_size)


def _set_sides(config: PreTrainedConfig, sides: tuple[int, int]) -> None:
    height, width = sides
    if config.model_type == "timm_wrapper":
        config.model_args = {**(config.model_args or {}), "img_size": list(sides)}
        return
    as_list = config.model_type == "hiera" or height != width
    _holder(config).image_size = list(sides) if as_list else height


def _holder(config: PreTrainedConfig) -> Any:
    """Return the part of a configuration that has the image size."""
    nested = getattr(config, "vision_config", None)
    return config if nested is None else _holder(nested)


def _family(config: PreTrainedConfig) -> str:
    """Return the family whose code reads the image size."""
    wraps = config.model_type in ("pooled_backbone", "custom_head")
    return _family(config.vision_config) if wraps else str(config.model_type)


def _patches(config: PreTrainedConfig) -> list[int]:
    """Return the pixels that one position stands for in each direction, of each grid, the finest first."""
    if config.model_type == "pvt":
        return list(accumulate(config.patch_sizes, mul))
    if config.model_type == "hiera":
        return [config.patch_stride[-1]]
    return [_pair(getattr(_holder(config), "patch_size", 1))[0]]


def _grids(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Return the rows and columns of each grid of positions that a network has."""
    if model.config.model_type == "timm_wrapper":
        grid = getattr(getattr(model.get_submodule("timm_model"), "patch_embed", None), "grid_size", None)
        return [] if grid is None else [_pair(grid)]
    height, width = _sides(model.config) or (0, 0)
    return [(height // patch, width // patch) for patch in _patches(model.config)]


def _pair(sides: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(sides, int):
        return sides, sides
    height, width = sides[-2:]
    return int(height), int(width)


def _shown(sides: tuple[int, int]) -> str:
    return f"{sides[0]} x {sides[1]}"
