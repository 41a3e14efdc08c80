"""What is read from the source of `transformers.TrainingArguments` is what the class has."""

from __future__ import annotations

from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, Literal

import pytest
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from hf_finetune.config.arguments import KEY_TYPES, argument_fields
from hf_finetune.config.data import DataArguments
from hf_finetune.config.fields import value_types
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.stock_fields import members, stock_fields, stock_types
from hf_finetune.config.stock_keys import WITHHELD
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.config.training_keys import TrainingKeys

OWN = {item.name for item in fields(TrainingKeys)}


def listed(metadata: Any) -> dict[str, Any]:
    return {key: list(value) if key == "choices" else value for key, value in metadata.items()}


def test_the_fields_are_those_of_the_class_with_their_defaults_choices_and_help() -> None:
    read = stock_fields()
    assert [*read] == [item.name for item in fields(TrainingArguments)]
    for item in fields(TrainingArguments):
        found = read[item.name]
        if found.default is not MISSING or found.default_factory is not MISSING or item.name not in OWN:
            assert (found.default, found.default_factory) == (item.default, item.default_factory), item.name
        assert listed(found.metadata) == listed(item.metadata), item.name


def plain(kind: Any) -> Any:
    """Return a type with a text in place of a member of an enumeration."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return str
    return list[Any] if "DebugOption" in str(kind) else kind


def test_the_types_are_those_of_the_class() -> None:
    for name, kinds in value_types(TrainingArguments).items():
        if name not in WITHHELD:
            assert {*stock_types()[name]} == {plain(kind) for kind in kinds} - {Literal[False]}, name


def test_the_keys_of_a_recipe_are_the_fields_of_the_arguments() -> None:
    own = {item.name for group in (ModelArguments, DataArguments) for item in fields(group)}
    known = own | {item.name for item in fields(FinetuneArguments)} - set(WITHHELD)
    assert set(argument_fields()) == set(KEY_TYPES) == known


@pytest.mark.parametrize("enumeration", [IntervalStrategy, OptimizerNames, SchedulerType])
def test_the_members_of_enumerations(enumeration: type[Enum]) -> None:
    assert [*members(enumeration.__name__)] == [member.value for member in enumeration]
