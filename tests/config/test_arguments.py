"""From the values of a recipe to the three dataclasses: types, lists, null, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers.utils.logging import get_verbosity as transformers_verbosity

from hf_finetune.cli.flags import OneLineParser, add_argument_flags, flag_values
from hf_finetune.config.arguments import build_arguments, coerce
from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import Recipe, flag_text, override
from hf_finetune.config.training import MULTISTEP, FinetuneArguments
from hf_finetune.cores import default_workers
from hf_finetune.errors import UserError
from tests.helpers.fake_cuda import pretend_several_gpus


def build(**values: Any) -> tuple[ModelArguments, DataArguments, FinetuneArguments]:
    values = {"use_cpu": True, **values}
    return build_arguments(Recipe("own", values, {key: "own.yaml" for key in values}))


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
        ("output_dir", "", r"^output_dir is empty, in own\.yaml; give it a value, or leave it out\.$"),
        ("dataset", " ", "^dataset is empty"),
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


def test_one_process_uses_one_of_several_gpus_and_names_the_launcher(
    monkeypatch: pytest.MonkeyPatch, logged: list[str]
):
    pretend_several_gpus(monkeypatch, 4)
    _, _, args = build(global_batch_size=128)
    assert (args.n_gpu, args.train_batch_size, args.gradient_accumulation_steps) == (1, 128, 1)
    line = "Note: one process uses one of the 4 GPUs of this machine; to train on all of them use: accelerate launch -q"
    assert len(logged) == 1 and logged[0].startswith(f"{line} --num_processes 4 ")


def test_several_gpus_that_cannot_be_left_out_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FinetuneArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(UserError, match="^One process would train on 2 GPUs, .* use accelerate launch -q --num_proc"):
        build()


@pytest.mark.parametrize("precision", ["bf16", "bf16_full_eval"])
def test_bfloat16_on_a_machine_without_gpu_needs_no_flag(monkeypatch: pytest.MonkeyPatch, precision: str):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    _, _, args = build(use_cpu=False, **{precision: True})
    assert args.device.type == "cpu" and getattr(args, precision)
    assert args.use_cpu is False  # the same recipe uses the GPU of another machine
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="^2 processes were launched, but they do not train together"):
        build(use_cpu=False, **{precision: True})


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


@pytest.mark.parametrize(
    ("level", "ours", "transformers"),
    [("error", logging.ERROR, logging.ERROR), ("info", logging.INFO, logging.WARNING), ("passive", logging.INFO, None)],
)
def test_the_log_level_is_that_of_our_logger_and_transformers_follows(level, ours, transformers, monkeypatch):
    logger = logging.getLogger("hf_finetune")
    monkeypatch.setattr(logger, "level", logging.INFO)
    training = build(log_level=level)[2]
    assert logger.level == ours
    assert training.get_process_log_level() == (transformers_verbosity() if transformers is None else transformers)
    logger.setLevel(logging.INFO)


def test_a_log_level_that_is_none_is_refused():
    with pytest.raises(UserError, match='log_level is "loud". Use one of debug, info'):
        build(log_level="loud")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr_milestones", [10.0, 20.5]),
        ("train_transforms", [{"RandomCrop": {"size": 32, "fill": None}}, "RandomHorizontalFlip"]),
        ("model_config", {"hidden_sizes": [16, 32], "layer_type": "basic"}),
        ("freeze", ["backbone"]),
        ("on_nan", ["skip", 10]),
        ("nesterov", True),
        ("max_train_samples", None),
        ("learning_rate", 1e-05),
        ("dataset", 'my images: "new"'),
    ],
)
def test_a_value_as_a_flag_is_read_back(key: str, value: Any):
    parser = OneLineParser("hf-finetune train")
    add_argument_flags(parser)
    assert flag_values(parser.parse_args([f"--{key}", flag_text(value)])) == {key: value}


def test_the_card_of_a_python_call_has_a_command_that_can_be_typed():
    from hf_finetune.api import _command
    from hf_finetune.training.given import Given

    command = _command("digits", {"lr_milestones": [3, 5], "freeze": ["backbone"], "seed": 1}, Given())
    expected = "hf-finetune train --recipe digits --lr_milestones '[3, 5]' --freeze '[\"backbone\"]' --seed 1"
    assert command == expected
