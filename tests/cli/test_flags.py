"""From the words of a command line to keys and values: lists, null, words that YAML would take for something else."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from hf_finetune.cli.commands import COMMANDS
from hf_finetune.cli.flags import (
    CONVERT_FLAGS,
    DATA_FLAGS,
    OneLineParser,
    add_argument_flags,
    add_inherited_flags,
    flag_values,
)
from hf_finetune.config.arguments import KEY_TYPES, argument_fields, check_flags
from hf_finetune.config.fields import own_fields
from hf_finetune.errors import UserError


def parse(*words: str, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    parser = OneLineParser(prog="hf-finetune train")
    add_argument_flags(parser, names)
    if names is None:
        add_inherited_flags(parser)
    return flag_values(parser.parse_args(words), KEY_TYPES)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--learning_rate", "1e-2"), {"learning_rate": 0.01}),
        (("--learning_rate=-1",), {"learning_rate": -1}),
        (("--num_train_epochs", "5"), {"num_train_epochs": 5}),
        (("--lr_milestones", "100", "150"), {"lr_milestones": [100, 150]}),
        (("--lr_milestones", "[100, 150]"), {"lr_milestones": [100, 150]}),
        (("--lr_milestones", "15"), {"lr_milestones": [15]}),
        (("--lr_milestones", "null"), {"lr_milestones": None}),
        (("--train_transforms", "RandomHorizontalFlip"), {"train_transforms": ["RandomHorizontalFlip"]}),
        (("--train_transforms", "[{Resize: {size: 8}}]"), {"train_transforms": [{"Resize": {"size": 8}}]}),
        (("--train_transforms", "[]"), {"train_transforms": []}),
        (("--model_config", "{num_channels: 1}"), {"model_config": {"num_channels": 1}}),
        (("--max_train_samples", "null"), {"max_train_samples": None}),
        # a flag alone says yes
        (("--use_cpu",), {"use_cpu": True}),
        (("--use_cpu", "--seed", "3"), {"use_cpu": True, "seed": 3}),
        (("--pretrained", "false"), {"pretrained": False}),
        # what is a word stays as it was typed, whatever YAML would make of it
        (("--image_size", "224"), {"image_size": 224}),
        (("--image_size", "224", "112"), {"image_size": [224, 112]}),
        (("--image_size", "[224, 112]"), {"image_size": [224, 112]}),
        (("--image_size", "null"), {"image_size": None}),
        (("--dataset", "2024"), {"dataset": "2024"}),
        (("--dataset", "true"), {"dataset": "true"}),
        (("--dataset", "./a b: c"), {"dataset": "./a b: c"}),
        (("--output_dir", "1e5"), {"output_dir": "1e5"}),
        (("--train_split", "no"), {"train_split": "no"}),
        (("--train_split", "null"), {"train_split": None}),
        (("--eval_strategy", "no"), {"eval_strategy": "no"}),
        ((), {}),
    ],
)
def test_flags(words: tuple[str, ...], expected: dict[str, Any]):
    assert parse(*words) == expected


def test_the_last_of_two_wins():
    assert parse("--seed", "1", "--seed", "2") == {"seed": 2}


def test_every_field_is_a_flag_and_only_the_withheld_are_not():
    parser = argparse.ArgumentParser()
    add_argument_flags(parser)
    add_inherited_flags(parser)
    flags = {word for action in parser._actions for word in action.option_strings}
    assert {f"--{name}" for name in argument_fields()} <= flags
    assert {"--learning_rate", "--dataset", "--model_name_or_path", "--warmup_steps"} <= flags
    assert not {"--do_train", "--resume_from_checkpoint", "--remove_unused_columns"} & flags


def test_evaluation_has_only_the_flags_that_it_reads():
    assert parse("--dataset", "x", names=DATA_FLAGS) == {"dataset": "x"}
    assert {"dataset", "image_column", "label_column", "test_split", "use_cpu"} <= set(DATA_FLAGS)
    assert not [
        name for name in DATA_FLAGS if name.startswith(("train_transforms", "max_train", "learning", "image_size"))
    ]
    with pytest.raises(UserError, match="unrecognized arguments: --learning_rate"):
        parse("--learning_rate", "1", names=DATA_FLAGS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rat"], r'^There is no flag "--learning_rat"\. Did you mean "--learning_rate"\?$'),
        (["--recip=x"], r'^There is no flag "--recip"\. Did you mean "--recipe"\?$'),
        (["--zzz"], r'^There is no flag "--zzz"\. To list the flags of a command: hf-finetune COMMAND --help$'),
        (["--do_eval"], r"^There is no flag --do_eval here: eval_strategy says when to evaluate\.$"),
        (["cifar10"], r'^"cifar10" belongs to no flag; use --dataset cifar10 if it is your dataset\.$'),
    ],
)
def test_words_that_no_flag_claims(words: list[str], message: str):
    with pytest.raises(UserError, match=message):
        check_flags(words)
    check_flags([])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--dataset", ""), r'^--dataset is empty \(""\); leave the flag out, or give it a value\.$'),
        (("train", "--dataset", "digits", "--output_dir", " "), r'^--output_dir is empty \(" "\)'),
        (("train", "--recipe="), r"^--recipe is empty"),
        (("push", "", "me/model"), r'^FOLDER is empty \(""\); give it a value\.$'),
        (("convert", "model.pth", ""), r"^OUT is empty"),
        (("lr-finder", "--output", ""), r"^--output is empty"),
        (("import-config", "config.py", "-o", ""), r"^--output is empty"),
    ],
)
def test_an_empty_word_is_no_path(words: tuple[str, ...], message: str):
    with pytest.raises(UserError, match=message):
        COMMANDS[words[0]].parser().parse_known_args(words[1:])


def test_flags_of_data_and_weights_are_keys_of_our_own():
    assert {*DATA_FLAGS, *CONVERT_FLAGS} <= own_fields().keys()


def test_the_choices_of_a_key_are_those_that_transformers_knows():
    from transformers.trainer_utils import IntervalStrategy, SaveStrategy
    from transformers.training_args import trainer_log_levels

    for name, known in (
        ("eval_strategy", {member.value for member in IntervalStrategy}),
        ("save_strategy", {member.value for member in SaveStrategy}),
        ("log_level", set(trainer_log_levels) - {"detail", "warn", "fatal"}),  # synonyms of Transformers
    ):
        assert set(own_fields()[name].metadata["choices"]) == known
