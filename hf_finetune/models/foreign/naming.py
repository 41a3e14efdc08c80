"""Renames the tensors of other libraries to the names of Transformers, by tables of rules.

A rule is a pair of templates: `"layer{s+1}.{b}.conv{c+1}"` becomes
`"resnet.encoder.stages.{s}.layers.{b}.layer.{c}.convolution"` for every stage s, block b and convolution c, counted
from 0. It renames the weight, bias and statistics of a module, or one parameter. A rule with several targets splits a
tensor along its first dimension. The targets are the names in Transformers' checkpoints on the Hub, which all its
versions read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

_PLACEHOLDER = re.compile(r"\{(\d*)([a-z])((?:\+\d+)?)\}")  # {b}, {s+1}, {2s+1}

# Buffers that follow from the architecture alone; Transformers computes them itself.
_COMPUTED = re.compile(r"(?:^|\.)(?:relative_position_index|attn_mask)$")
# Tensors of pretraining, of averaging, and of a second copy of the weights, which the network itself does not use.
_BESIDE = re.compile(r"^(?:mask_token$|decoder|ema_|n_averaged$|steps$)")


class Misfit(Exception):
    """A network is not one of a family. The message completes "is a ResNet ...", such as "without a class token"."""


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    numbers: Mapping[str, tuple[int, int]]  # of each placeholder: factor and offset
    targets: tuple[str, ...]

    @classmethod
    def read(cls, source: str, targets: str | Sequence[str]) -> _Rule:
        text, end = "", 0
        numbers: dict[str, tuple[int, int]] = {}
        for found in _PLACEHOLDER.finditer(source):
            factor, name, offset = found.groups()
            text += re.escape(source[end : found.start()]) + rf"(?P<{name}>\d+)"
            numbers[name] = int(factor or 1), int(offset or 0)
            end = found.end()
        pattern = re.compile(text + re.escape(source[end:]) + r"(?P<leaf>\.[a-z_]+)?")
        return cls(pattern, numbers, (targets,) if isinstance(targets, str) else tuple(targets))

    def rename(self, key: str) -> list[str] | None:
        """Return the new names of `key`, or None if the rule does not apply to it."""
        found = self.pattern.fullmatch(key)
        if found is None:
            return None
        values = {}
        for name, (factor, offset) in self.numbers.items():
            values[name], rest = divmod(int(found[name]) - offset, factor)
            if rest or values[name] < 0:
                return None
        return [target.format(**values) + (found["leaf"] or "") for target in self.targets]


def _unchanged(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@dataclass(frozen=True)
class Placement:
    """Which tensors of a state dict have a place in a family's network.

    Attributes:
        places: The names in Transformers, by the names in the file.
        misplaced: The names of tensors without a place.
        beside: The names of tensors that the network does not use, such as those of an average.
    """

    places: dict[str, list[str]]
    misplaced: list[str]
    beside: list[str]


@dataclass(frozen=True)
class Naming:
    """How a library names a family's tensors.

    Attributes:
        library: The library's name, for reports.
        rules: Templates of Transformers' names by templates of the library's.
        adapt: Returns a tensor in the layout of Transformers, from its new name and the tensor.
    """

    library: str
    rules: Mapping[str, str | Sequence[str]]
    adapt: Callable[[str, torch.Tensor], torch.Tensor] = _unchanged

    @cached_property
    def _compiled(self) -> list[_Rule]:
        return [_Rule.read(source, targets) for source, targets in self.rules.items()]

    def place(self, keys: Iterable[str]) -> Placement:
        """Find the places of a state dict's keys."""
        placement = Placement({}, [], [])
        for key in keys:
            names = next((names for rule in self._compiled if (names := rule.rename(key))), None)
            if names is not None:
                placement.places[key] = names
            elif _BESIDE.search(key):
                placement.beside.append(key)
            elif not _COMPUTED.search(key):
                placement.misplaced.append(key)
        return placement

    def convert(self, state: Mapping[str, torch.Tensor], places: Mapping[str, list[str]]) -> dict[str, torch.Tensor]:
        """Return the tensors that have places, by their names and in their layout in Transformers.

        Where only the name changes, the tensor is not copied.

        Raises:
            Misfit: A tensor's shape cannot be right.
        """
        converted: dict[str, torch.Tensor] = {}
        for key, names in places.items():
            try:
                parts = state[key].chunk(len(names)) if len(names) > 1 else (state[key],)
                converted.update((name, self.adapt(name, part)) for name, part in zip(names, parts, strict=True))
            except (RuntimeError, ValueError) as error:
                raise Misfit(f"whose {key} is of shape {tuple(state[key].shape)}") from error
        return converted


def _imagenet_figures(settings: Mapping[str, Any], library: str, file_name: str) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """An architecture of Transformers whose weights other libraries have too.

    Attributes:
        name: Its name, for reports.
        namings: How each library names its tensors.
        configure: Returns the model type and the settings of the configuration, from the shapes in a converted state
            dict; raises `Misfit`.
        head: The name of the classifier in Transformers.
        variants: Descriptions of related networks that cannot be loaded, by patterns of tensors that only they have.
        preprocessing: Returns the figures of the image processor that differ from ImageNet's, by the fields of
            `models.processor.Preprocessing`, from the settings, the library's name and the file's name.
    """

    name: str
    namings: tuple[Naming, ...]
    configure: Callable[[Mapping[str, torch.Tensor]], tuple[str, dict[str, Any]]]
    head: str
    variants: Mapping[str, str]
    preprocessing: Callable[[Mapping[str, Any], str, str], dict[str, Any]] = _imagenet_figures


def tensor_of(state: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return a tensor that the network must have, or raise `Misfit`."""
    if name not in state:
        raise Misfit(f"without {name}")
    return state[name]


def count(state: Mapping[str, torch.Tensor], template: str) -> int:
    """Return the number of stages, blocks or layers: those of `template`, in which `{}` counts from 0."""
    number = 0
    while any(name.startswith(template.format(number)) for name in state):
        number += 1
    return number
