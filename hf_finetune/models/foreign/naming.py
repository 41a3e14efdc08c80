"""The names that other libraries give a network's tensors, as tables that turn them into Transformers'.

A rule is a pair of templates: `"layer{s+1}.{b}.conv{c+1}"` is, for every stage s, block b and convolution c counted
from 0, what Transformers calls `"resnet.encoder.stages.{s}.layers.{b}.layer.{c}.convolution"`. It covers a module with
its weight, bias and statistics, or one parameter. One with several targets splits a tensor along its first dimension.
The names on the right are those of Transformers' checkpoints on the Hub, which all its versions read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

_PLACEHOLDER = re.compile(r"\{(\d*)([a-z])((?:\+\d+)?)\}")  # {b}, {s+1}, {2s+1}

# Buffers that follow from the architecture alone; Transformers computes them itself.
_COMPUTED = re.compile(r"(?:^|\.)(?:relative_position_index|attn_mask)$")
# Of pretraining, of averaging and of a second copy of the weights: beside the network, and without effect on it.
_BESIDE = re.compile(r"^(?:mask_token$|decoder|ema_|n_averaged$|steps$)")


class Misfit(Exception):
    """What keeps a network from being one of a family's: its message resumes from "a ResNet "."""


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    numbers: Mapping[str, tuple[int, int]]  # of each placeholder: factor and offset
    targets: tuple[str, ...]

    @classmethod
    def read(cls, source: str, targets: str | tuple[str, ...]) -> _Rule:
        pattern, numbers, end = "", {}, 0
        for found in _PLACEHOLDER.finditer(source):
            factor, name, offset = found.groups()
            pattern += re.escape(source[end : found.start()]) + rf"(?P<{name}>\d+)"
            numbers[name] = int(factor or 1), int(offset or 0)
            end = found.end()
        pattern = re.compile(pattern + re.escape(source[end:]) + r"(?P<leaf>\.[a-z_]+)?")
        return cls(pattern, numbers, (targets,) if isinstance(targets, str) else targets)

    def rename(self, key: str) -> list[str] | None:
        """Returns the new names of `key`, or None if the rule is not about it."""
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
    """Where a state dict's tensors belong: `places` has Transformers' names of those with a place in the network.

    `misplaced` have none, and `beside` are not of the network.
    """

    places: dict[str, list[str]]
    misplaced: list[str]
    beside: list[str]


@dataclass(frozen=True)
class Naming:
    """How `library` names a family's tensors.

    `adapt` gives a tensor, by its new name, the layout that Transformers has it in.
    """

    library: str
    rules: Mapping[str, str | tuple[str, ...]]
    adapt: Callable[[str, torch.Tensor], torch.Tensor] = _unchanged

    @cached_property
    def _compiled(self) -> list[_Rule]:
        return [_Rule.read(source, targets) for source, targets in self.rules.items()]

    def place(self, keys: Iterable[str]) -> Placement:
        """Finds the places of a state dict's keys."""
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
        """Returns the tensors that have places, in Transformers' names and layout.

        They are views where nothing but the name changes. Raises `Misfit` for one whose shape cannot be right.
        """
        converted = {}
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
    """A kind of network that Transformers has.

    `configure` reads a converted state dict's shapes and returns the model type and the settings of its configuration,
    or raises `Misfit`. `head` is the classifier's new name. `variants` are patterns of tensors that only a relative of
    the network has, each with what it is. `preprocessing` returns what differs from ImageNet's figures, in a recipe's
    words, from the settings, the library and the file's name.
    """

    name: str
    namings: tuple[Naming, ...]
    configure: Callable[[Mapping[str, torch.Tensor]], tuple[str, dict[str, Any]]]
    head: str
    variants: Mapping[str, str]
    preprocessing: Callable[[Mapping[str, Any], str, str], dict[str, Any]] = _imagenet_figures


def tensor_of(state: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Returns a tensor without which there is no such network; raises `Misfit` where it is not there."""
    if name not in state:
        raise Misfit(f"without {name}")
    return state[name]


def count(state: Mapping[str, torch.Tensor], template: str) -> int:
    """Returns how many of `template` there are, its `{}` counted up from 0: stages, blocks or layers."""
    number = 0
    while any(name.startswith(template.format(number)) for name in state):
        number += 1
    return number
