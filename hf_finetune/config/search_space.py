"""The space of a search for settings: for each key of a recipe a range of numbers, or choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hf_finetune.config.arguments import KEY_TYPES, coerce
from hf_finetune.config.recipe import flag_text, read_mapping
from hf_finetune.errors import UserError, did_you_mean

# What all trials have in common, so that their figures can be compared.
_COMMON = {
    "dataset",
    "fold",
    "greater_is_better",
    "max_eval_samples",
    "metric_for_best_model",
    "output_dir",
    "overwrite_output_dir",
    "push_to_hub",
    "report_to",
    "validation_fraction",
    "validation_split",
}
_EXAMPLE = "use {low: 0.0001, high: 0.1, log: true} or {choices: [sgd, adamw_torch]}"


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included.

    Attributes:
        low: The lower end.
        high: The upper end.
        log: Whether their logarithms are drawn evenly.
        whole: Whether they are whole: both ends are.
    """

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Choices:
    """Values without an order, each with the text that stands for it."""

    values: Mapping[str, Any]


Space: TypeAlias = Mapping[str, Range | Choices]


def read_space(space: str | Path | Mapping[str, Any]) -> Space:
    """Return the space of a YAML file, or of a mapping that says the same.

    Raises:
        UserError: For a file that cannot be read, and for a key or a range that cannot be.
    """
    origin = "space" if isinstance(space, Mapping) else str(space)
    known = KEY_TYPES.keys()
    mapping = space if isinstance(space, Mapping) else read_mapping(Path(space).expanduser(), known)
    if not mapping:
        raise UserError(
            f"{origin} names no key; use lines such as learning_rate: {{low: 0.0001, high: 0.1, log: true}}"
        )
    return {str(key): _parameter(str(key), value, origin) for key, value in mapping.items()}


def _parameter(key: str, value: Any, origin: str) -> Range | Choices:
    if key not in KEY_TYPES:
        raise UserError(f'{origin}: unknown key "{key}".{did_you_mean(key, KEY_TYPES)}')
    if key in _COMMON:
        raise UserError(f"{origin}: {key} is the same for all trials, so that they can be compared; leave it out.")
    if not isinstance(value, Mapping):
        raise UserError(f"{origin}: {key} is {value!r}, which is no range and no choices; {_EXAMPLE}.")
    for word in value:
        if word not in ("low", "high", "log", "choices"):
            raise UserError(f'{origin}: {key} has "{word}", which means nothing there; {_EXAMPLE}.')
    if "choices" in value:
        if len(value) > 1:
            raise UserError(f"{origin}: {key} has choices and a range; leave one of them out.")
        return _choices(key, value["choices"], origin)
    return _range(key, value, origin)


def _choices(key: str, choices: Any, origin: str) -> Choices:
    if not isinstance(choices, (list, tuple)) or len(choices) < 2:
        raise UserError(f"{origin}: the choices of {key} are {choices!r}; use a list of two or more.")
    values = {flag_text(choice): coerce(key, choice, origin) for choice in choices}
    if len(values) < len(choices):
        raise UserError(f"{origin}: the choices of {key} have one value twice; leave one of them out.")
    return Choices(dict(zip(values, choices, strict=True)))


def _range(key: str, value: Mapping[str, Any], origin: str) -> Range:
    if not {int, float} & set(KEY_TYPES[key]):
        raise UserError(f"{origin}: {key} is no number, so it has no range; use {{choices: [...]}}.")
    low, high, log = _end(key, "low", value, origin), _end(key, "high", value, origin), value.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{origin}: log of {key} is {log!r}; use true or false.")
    if not low < high:
        raise UserError(f"{origin}: low of {key} is {low:g}, which is not below high, {high:g}.")
    if log and low <= 0:
        raise UserError(f"{origin}: low of {key} is {low:g}, and log needs a number above 0.")
    return Range(low, high, log, isinstance(low, int) and isinstance(high, int))


def _end(key: str, name: str, value: Mapping[str, Any], origin: str) -> float:
    end = value.get(name)
    if isinstance(end, bool) or not isinstance(end, (int, float)):
        missing = "is missing" if end is None else f"is {end!r}, which is no number"
        raise UserError(f"{origin}: {name} of {key} {missing}; {_EXAMPLE}.")
    coerce(key, end, origin)
    return end
