"""How deep each parameter of a network lies, from the network's structure alone: stem, blocks, and what follows them.

Layer-wise learning rates need an order of the parameters. It is found without a list of architectures: blocks are the
elements of lists of modules (`ModuleList`, `Sequential`, or children whose names differ by a number only, as timm's
RegNet has them), at most two lists deep, which are stages and their blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass
from typing import cast

from torch import nn

_LISTS = 2  # stages and their blocks; a list inside a block, such as the convolutions of a bottleneck, is the block's

_Named = tuple[str, nn.Module]
_Element = list[_Named]


@dataclass(frozen=True)
class _Part:
    """Parameters that belong together, in the order of the network.

    Attributes:
        names: Their names.
        is_block: Whether they are a block, or lie before, between or behind blocks.
    """

    names: tuple[str, ...]
    is_block: bool


def parameter_depths(model: nn.Module, head: Set[str]) -> dict[str, int]:
    """Return how deep each parameter lies: 0 for the stem, 1 for the first block, and so on.

    What lies between two blocks counts with the block that follows; what a stage has before its first or after its last
    block counts with that block. What follows the last block, such as a final norm, is as deep as the head: one more
    than the last block. This is the numbering of BEiT (arXiv 2106.08254) and of timm's `group_matcher`.

    Args:
        model: The network.
        head: The names of the parameters of its classification head.

    Returns:
        The depth by the name of the parameter, in the order of `named_parameters`. All are 0 where no blocks are found.
    """
    parts = _parts(model, "", 0, 2)
    if not any(part.is_block for part in parts):  # a plain chain of layers, as VGG and MobileNetV1 are
        parts = _parts(model, "", 0, 1)
    blocks = [number for number, part in enumerate(parts) if part.is_block and not set(part.names) <= head]
    deepest = len(blocks) + 1 if blocks else 0
    depths: dict[str, int] = {}
    block = 0
    for number, part in enumerate(parts):
        block += number in blocks
        between = number not in blocks and block > 0  # counts with the block that follows, or with the head
        depths |= {name: deepest if name in head else block + between for name in part.names}
    return {name: depths[name] for name, _ in model.named_parameters()}


def _parts(module: nn.Module, prefix: str, lists: int, least: int) -> list[_Part]:
    """Return the parts of a module in their order.

    Args:
        module: The module.
        prefix: Its name and a dot, or nothing.
        lists: How many lists of blocks it lies in.
        least: The number of layers with weights from which an element of a list is a block.
    """
    parts = [_Part((prefix + name,), is_block=False) for name, _ in module.named_parameters(recurse=False)]
    for elements in _elements(module, least) if lists < _LISTS else [[[child]] for child in module.named_children()]:
        is_list = len(elements) > 1
        for element in elements:
            inside = [
                part for name, child in element for part in _parts(child, f"{prefix}{name}.", lists + is_list, least)
            ]
            parts += _as_blocks(inside) if is_list and _layers(element) >= least else inside
    return parts


def _as_blocks(parts: list[_Part]) -> list[_Part]:
    """Return an element of a list as one block, or as its own blocks with what lies around them."""
    blocks: list[list[str]] = []
    before: list[str] = []
    for part in parts:
        if part.is_block:
            blocks.append([*before, *part.names])
            before = []
        elif blocks and not any(later.is_block for later in parts[parts.index(part) :]):
            blocks[-1] += part.names
        else:
            before += part.names
    if not blocks:
        blocks = [before]
    return [_Part(tuple(names), is_block=True) for names in blocks if names]


def _elements(module: nn.Module, least: int) -> list[list[_Element]]:
    """Return the children of a module in order: lists that hold blocks, and lists of one element for all else.

    Several `ModuleList`s of one length are columns of one list: PVT has a list of embeddings and one of blocks, and
    takes turns. A `Sequential` runs as a whole.
    """
    groups: dict[object, list[_Named]] = defaultdict(list)
    for name, child in module.named_children():
        groups["" if isinstance(module, (nn.Sequential, nn.ModuleList)) else _kind(name, child)].append((name, child))
    lists: dict[str, list[_Element]] = {}
    for kind, members in groups.items():
        elements: list[_Element] = [[member] for member in members]
        if isinstance(kind, int):
            elements = [
                [(f"{name}.{number}", cast(nn.ModuleList, column)[number]) for name, column in members]
                for number in range(kind)
            ]
        if len(members) > 1 and max(map(_layers, elements)) >= least:
            lists[members[0][0]] = elements
        else:
            lists |= {name: [[(name, child)]] for name, child in members}
    return [lists[name] for name, _ in module.named_children() if name in lists]


def _kind(name: str, child: nn.Module) -> object:
    """Return what the members of one list have in common: the length of their lists, or a name without its number."""
    if isinstance(child, nn.ModuleList) and len(child) > 1:
        return len(child)
    stem = name.rstrip("0123456789")
    return name if stem == name else (stem,)


def _layers(element: _Element) -> int:
    """Return how many layers with a matrix of weights an element has."""
    return sum(
        any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False))
        for _, module in element
        for layer in module.modules()
    )
