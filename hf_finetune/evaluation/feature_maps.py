"""Which outputs of a network's modules have a place for each part of the image, and which of them explains a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import UserError, did_you_mean, first_line

# What changes nothing in evaluation, or is a step inside a block whose result has a module of its own.
_STEPS = (nn.Linear, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity, nn.Softmax, nn.Flatten)
_LEAST_SIDE = 4  # positions in each direction, below which a map shows no place
_MOST_EXTRA = 16  # class, distillation and register tokens; timm's networks have up to 9
_MOST_NAMED = 3  # layers that a message names


@dataclass(frozen=True)
class FeatureMap:
    """The output of a module as features at positions of the image.

    Attributes:
        layer: The name of the module in the network.
        rows: Positions from top to bottom.
        columns: Positions from left to right.
        form: "channels_first" for (batch, channels, rows, columns), "channels_last" for (batch, rows, columns,
            channels), "tokens" for (batch, tokens, channels).
        extra: How many tokens come before those of the positions: class, distillation and register tokens.
    """

    layer: str
    rows: int
    columns: int
    form: str
    extra: int = 0

    def positions(self, output: torch.Tensor) -> torch.Tensor:
        """Return such an output as (batch, channels, rows, columns), without the extra tokens."""
        if self.form == "tokens":
            return output[:, self.extra :].transpose(1, 2).unflatten(2, (self.rows, self.columns))
        return output.permute(0, 3, 1, 2) if self.form == "channels_last" else output


@dataclass(frozen=True)
class Recorded:
    """What a module gave in a pass.

    Attributes:
        module: The module.
        feature_map: What its output is; None where it has no positions.
        output: The output, or the first tensor of it.
    """

    module: nn.Module
    feature_map: FeatureMap | None
    output: torch.Tensor


@contextmanager
def undisturbed(network: PreTrainedModel) -> Iterator[None]:
    """Compute gradients of activations alone in the block, in float32 and evaluation mode; nothing else changes."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    modes = [module for module in network.modules() if module.training]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        for module in modes:
            module.training = False
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(network.device.type, enabled=False),
        ):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module in modes:
            module.training = True


def find_feature_map(network: PreTrainedModel, image: torch.Tensor, layer: str | None = None) -> FeatureMap:
    """Return the feature map by which a network's classes are explained.

    It is the last output with at least 4 x 4 positions on which the likeliest class depends, or where none has as many,
    the last with more than one. In a network whose head reads a class token, that is the input of the last attention:
    behind it no other token counts.

    Args:
        network: The network.
        image: One prepared image, float (1, channels, height, width).
        layer: The name of a module to use in its place.

    Raises:
        UserError: There is no such map, or the module has none.
    """
    recorded, logits = record(network, image)
    if layer is not None and layer not in recorded:
        known = list(recorded)
        guess = did_you_mean(layer, known) or f" Use one such as {_named(_usable(recorded, logits))}."
        raise UserError(f"--layer: {type(network).__name__} has no layer {layer}.{guess}")
    if layer is not None:
        return _checked(layer, recorded, logits)
    usable = _usable(recorded, logits)
    if not usable:
        raise UserError(
            f"{type(network).__name__} gives no map of features for images of {image.shape[2]} x {image.shape[3]}"
            " pixels, so there is no heat map."
        )
    large = [found for found in usable if min(found.rows, found.columns) >= _LEAST_SIDE]
    return (large or usable)[-1]


def _checked(layer: str, recorded: Mapping[str, Recorded], logits: torch.Tensor) -> FeatureMap:
    """Return the map of a layer that was asked for."""
    usable = _usable(recorded, logits)
    instead = f"use one such as {_named(usable)}" if usable else "leave --layer out"
    found, output = recorded[layer].feature_map, recorded[layer].output
    if found is None or found.rows * found.columns < 2:
        shape = " x ".join(map(str, output.shape[1:]))
        raise UserError(f"--layer: {layer} gives {shape} for an image, which has no positions; {instead}.")
    if not _deciding([(found, output)], logits)[0]:
        raise UserError(f"--layer: behind {layer} no position of the image counts for the class; {instead}.")
    return found


def _named(maps: Sequence[FeatureMap]) -> str:
    return ", ".join(found.layer for found in maps[: -_MOST_NAMED - 1 : -1])


def _usable(recorded: Mapping[str, Recorded], logits: torch.Tensor) -> list[FeatureMap]:
    """Return the maps that may explain a class, in the order of the pass; one tensor has the shortest of its names."""
    by_tensor: dict[int, list[FeatureMap]] = {}
    for name, each in recorded.items():
        found = each.feature_map
        if found is None or found.rows * found.columns < 2 or isinstance(each.module, _STEPS):
            continue
        if not _is_inside_a_block(name, found, recorded):
            # In the place of its last name: a block that adds in place gives the tensor of one of its steps.
            by_tensor[id(each.output)] = [*by_tensor.pop(id(each.output), []), found]
    outermost = [min(same, key=lambda found: found.layer.count(".")) for same in by_tensor.values()]
    deciding = _deciding([(found, recorded[found.layer].output) for found in outermost], logits)
    return [found for found, decides in zip(outermost, deciding, strict=True) if decides] or outermost


def _is_inside_a_block(name: str, found: FeatureMap, recorded: Mapping[str, Recorded]) -> bool:
    """Return whether an output is a step of a block that gives a map of another size."""
    while name := name.rpartition(".")[0]:
        outer = recorded.get(name)
        if outer is None or outer.feature_map is None or isinstance(outer.module, nn.Sequential):
            continue
        if (outer.feature_map.rows, outer.feature_map.columns) != (found.rows, found.columns):
            return True
    return False


def _deciding(outputs: Sequence[tuple[FeatureMap, torch.Tensor]], logits: torch.Tensor) -> list[bool]:
    """Return for each output whether the likeliest class depends on its positions."""
    tensors = [output for _, output in outputs if output.requires_grad]
    gradients = torch.autograd.grad(logits.max(), tensors, retain_graph=True, allow_unused=True) if tensors else ()
    of_tensor = {id(tensor): gradient for tensor, gradient in zip(tensors, gradients, strict=True)}
    found = [(feature_map, of_tensor.get(id(output))) for feature_map, output in outputs]
    return [gradient is not None and bool(own.positions(gradient).any()) for own, gradient in found]


def record(network: PreTrainedModel, image: torch.Tensor) -> tuple[dict[str, Recorded], torch.Tensor]:
    """Return what each module gave for an image, in the order of the pass, and the logits, float32 (1, classes).

    Args:
        network: The network, within `undisturbed`.
        image: One prepared image, float (1, channels, height, width).

    Raises:
        UserError: The network does not take the image.
    """
    outputs: list[tuple[str, nn.Module, torch.Tensor]] = []

    def note(name: str, module: nn.Module, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and tensor.is_floating_point():
            outputs.append((name, module, tensor))

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        for name, module in network.named_modules()
        if name
    ]
    try:
        logits = network(pixel_values=image.detach().clone().requires_grad_().clone()).logits.float()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{type(network).__name__} does not take such an image: {first_line(error)}.") from error
    finally:
        for hook in hooks:
            hook.remove()
    return dict(_understood(outputs, (image.shape[2], image.shape[3]))), logits


def first_tensor(output: Any) -> torch.Tensor | None:
    """Return an output of a module, or the first part of it, where it is a tensor."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, torch.Tensor) else None


def _understood(
    outputs: Sequence[tuple[str, nn.Module, torch.Tensor]], sides: tuple[int, int]
) -> Iterator[tuple[str, Recorded]]:
    grids: list[tuple[int, int]] = []
    for name, module, output in outputs:
        found = None
        if output.ndim == 4 and output.shape[0] == 1:
            found = _map_of_four(name, output.shape, sides)
            grids += [] if found is None else [(found.rows, found.columns)]
        elif output.ndim == 3 and output.shape[0] == 1 and output.shape[2] > 1:
            found = _map_of_tokens(name, output.shape[1], grids)
        yield name, Recorded(module, found, output)


def _map_of_four(name: str, shape: torch.Size, sides: tuple[int, int]) -> FeatureMap | None:
    """Return the map of an output of four axes: those two are its rows and columns whose ratio is the image's."""
    forms = {"channels_first": (shape[2], shape[3]), "channels_last": (shape[1], shape[2])}

    def distance(grid: tuple[int, int]) -> float:
        ratio = (grid[0] * sides[1]) / (grid[1] * sides[0])
        return max(ratio, 1 / ratio)

    form, (rows, columns) = min(forms.items(), key=lambda item: distance(item[1]))
    # Borders that a convolution adds or leaves out change the ratio, in small maps most.
    if distance((rows, columns)) > 2 or rows > 2 * sides[0] or columns > 2 * sides[1]:
        return None
    return FeatureMap(name, rows, columns, form)


def _map_of_tokens(name: str, tokens: int, grids: Sequence[tuple[int, int]]) -> FeatureMap | None:
    """Return the map of a list of tokens: its grid is one of those before it, halved so often that they fit."""
    best = None
    for rows, columns in dict.fromkeys(reversed(grids)):
        while rows * columns > 1:
            extra = tokens - rows * columns
            if 0 <= extra <= _MOST_EXTRA and (best is None or extra < best.extra):
                best = FeatureMap(name, rows, columns, "tokens", extra)
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return best
