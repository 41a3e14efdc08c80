"""From words to arguments: types, lists, null, words that YAML would take for something else, and what is refused."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from hf_finetune.config.arguments import (
    DATA_FLAGS,
    OneLineParser,
    add_argument_flags,
    argument_fields,
    build_arguments,
    check_flags,
    coerce,
    flag_values,
)
from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import Recipe, override
from hf_finetune.config.training import MULTISTEP, FinetuneArguments, default_workers
from hf_finetune.errors import UserError


def parse(*words: str, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    parser = OneLineParser(prog="hf-finetune train", allow_abbrev=False)
    add_argument_flags(parser, names)
    return flag_values(parser.parse_args(words))


def build(**values: Any) -> tuple[ModelArguments, DataArguments, FinetuneArguments]:
    values = {"use_cpu": True, **values}
    return build_arguments(Recipe("own", values, {key: "own.yaml" for key in values}))


# ---- flags ----


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


# ---- types ----


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", 1, 1),
        ("seed", 3.0, 3),
        ("max_train_samples", 10, 10),
        ("lr_milestones", 15, [15]),
        ("lr_milestones", [1.5, 2], [1.5, 2]),
        ("image_mean", 120, [120]),
        ("train_transforms", "RandomHorizontalFlip", ["RandomHorizontalFlip"]),
        ("model_config", {"a": 1}, {"a": 1}),
        ("dataset", 2024, "2024"),
        ("eval_strategy", "no", "no"),
        ("report_to", "none", "none"),
        ("report_to", ["none"], ["none"]),
        ("pretrained", False, False),
        ("seed", None, None),
    ],
)
def test_values_become_the_fields_type(name: str, value: Any, expected: Any):
    result = coerce(name, value, "own.yaml")
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", "fast", r"^learning_rate: 'fast' is not a number, in own\.yaml; use one, such as 0\.01\.$"),
        ("learning_rate", float("inf"), "is not a number"),
        ("learning_rate", float("nan"), "is not a number"),
        ("learning_rate", True, r"^learning_rate: True does not fit, in own\.yaml; use a number\.$"),
        ("learning_rate", [1, 2], "use a number"),
        ("seed", 1.5, r"^seed: 1\.5 is not a whole number, in own\.yaml\.$"),
        ("seed", {"a": 1}, "use a whole number"),
        ("pretrained", "yes", r"^pretrained: 'yes' is neither true nor false, in own\.yaml\.$"),
        ("dataset", ["a", "b"], "use a word"),
        ("model_config", "resnet", r"^model_config: 'resnet' does not fit, in own\.yaml; use a mapping"),
        ("model_config", 5, "use a mapping"),
        ("lr_milestones", ["a"], r"^lr_milestones: 'a' is not a number"),
    ],
)
def test_values_that_do_not_fit(name: str, value: Any, message: str):
    with pytest.raises(UserError, match=message):
        coerce(name, value, "own.yaml")


# ---- arguments ----


def test_arguments_are_built_from_a_recipe_and_the_rest_has_its_defaults():
    model, data, training = build(model_type="lenet5", dataset=2024, learning_rate=1, lr_milestones=3, optim="sgd")
    assert (model.model_type, model.pretrained, data.dataset) == ("lenet5", True, "2024")
    assert (training.learning_rate, training.lr_milestones, training.momentum) == (1, [3], 0.9)
    assert training.lr_scheduler_type.value == MULTISTEP and training.max_grad_norm == 0


def test_null_takes_a_value_back_to_its_default():
    recipe = override(
        Recipe("own", {"learning_rate": 0.5, "use_cpu": True}, {"learning_rate": "a", "use_cpu": "a"}), {}
    )
    assert build_arguments(recipe)[2].learning_rate == 0.5
    assert build_arguments(override(recipe, {"learning_rate": None}))[2].learning_rate == 0.01


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (128, 1)),
        ({"global_batch_size": 12}, (12, 1)),
        ({"global_batch_size": 12, "per_device_train_batch_size": 4}, (4, 3)),
        ({"global_batch_size": 12, "gradient_accumulation_steps": 6}, (2, 6)),
    ],
)
def test_the_global_batch_is_divided(values: dict[str, int], expected: tuple[int, int]):
    training = build(**values)[2]
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == expected


def test_what_the_stock_arguments_refuse_is_one_line():
    with pytest.raises(UserError) as caught:
        build(fp16=True, bf16=True)
    assert "fp16" in str(caught.value) and "\n" not in str(caught.value)


def test_the_metric_that_chooses_is_one_that_is_measured():
    training = build(metric_for_best_model="eval_macro_f1")[2]
    training.prepare_for_run(has_validation=True, metrics=["accuracy", "macro_f1"])
    with pytest.raises(UserError, match='metric_for_best_model is "macro_f1", which is not measured'):
        training.prepare_for_run(has_validation=True, metrics=["accuracy", "loss"])
    training.prepare_for_run(has_validation=False)  # nothing is chosen
    assert training.load_best_model_at_end is False


@pytest.mark.parametrize(("cores", "processes", "workers"), [(16, 1, 8), (16, 4, 3), (6, 1, 5), (2, 2, 1), (1, 1, 1)])
def test_workers_for_a_gpu_are_its_share_of_the_cores(cores, processes, workers):
    assert default_workers(cores, processes) == workers


def test_without_a_gpu_no_workers_are_started():
    assert FinetuneArguments(output_dir="runs/none", use_cpu=True).dataloader_num_workers == 0
    assert FinetuneArguments(output_dir="runs/none", use_cpu=True, dataloader_num_workers=3).dataloader_num_workers == 3
