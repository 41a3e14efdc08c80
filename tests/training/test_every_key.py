"""Every field of the installed `TrainingArguments`: a key of our own, withheld, tried in a run, or refused in time.

A field that a new version of Transformers adds is none of these, and the first test names it. Try it, then put it into
`RUNS` with a value that is not its default, or into `WITHHELD` of `hf_finetune.config.stock_keys` with the reason.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from hf_finetune import FinetuneResult, finetune
from hf_finetune.config.stock_keys import WITHHELD
from hf_finetune.config.training_keys import TrainingKeys
from hf_finetune.errors import UserError
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.tiny import write_recipe

TINY_VIT = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT = {"model_type": "vit", "model_config": {**TINY_VIT, "intermediate_size": 16}}

# Keys that this package leaves as they are, each tried with another value than its default.
RUNS: dict[str, dict[str, Any]] = {
    "Adam and a schedule with arguments": {
        "optim": OptimizerNames.ADAMW_TORCH, "adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-7,
        "lr_scheduler_type": SchedulerType.COSINE_WITH_RESTARTS, "lr_scheduler_kwargs": {"num_cycles": 2},
    },
    "arguments of an optimizer": {"optim": "rmsprop", "optim_args": "alpha=0.9"},
    "bf16 in evaluation": {"bf16_full_eval": True, "tf32": False},
    "fp16 in evaluation": {"fp16_full_eval": True},
    "log": {
        "logging_strategy": "epoch", "logging_first_step": True, "log_on_each_node": False, "log_level_replica": "info",
        "run_name": "x", "project": "x", "trackio_space_id": "a/b", "trackio_bucket_id": "a/b",
        "trackio_static_space_id": "a/b",
    },
    "evaluation and checkpoints by steps": {
        "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 4, "eval_delay": 1,
        "eval_on_start": True, "eval_accumulation_steps": 1, "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,
    },
    "loader": {
        "dataloader_num_workers": 1, "dataloader_drop_last": True, "dataloader_pin_memory": False,
        "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 1,
        "dataloader_multiprocessing_context": "fork",
    },
    "order": {"train_sampling_strategy": "sequential", "data_seed": 1},
    "processes": {"ddp_bucket_cap_mb": 1, "ddp_broadcast_buffers": False, "ddp_static_graph": True},
    "looking for faults": {
        "skip_memory_metrics": False, "torch_empty_cache_steps": 1, "debug": "underflow_overflow",
    },
    "compiled": {"torch_compile": True, "torch_compile_backend": "eager", "torch_compile_mode": "default"},
    "activation checkpointing": {
        **VIT, "activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 1},
    },
    "gradient checkpointing": {
        **VIT, "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
}  # fmt: skip

# Settings that a run of one process on a CPU refuses before its first step, and the beginning of the line.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"fsdp": "full_shard"}, "fsdp divides the weights over several processes, and this run has one"),
    ({"fsdp_config": {"fsdp_version": 2}}, "fsdp_config has no effect without fsdp"),
    ({"deepspeed": "absent.json"}, "deepspeed"),
    ({"ddp_backend": "gloo"}, "ddp_backend gloo is for several processes, and this run has one"),
    ({"full_determinism": "perhaps"}, "full_determinism: 'perhaps' is neither true nor false"),
    ({"optim_target_modules": ["encoder"]}, "optim_target_modules is not read where optim is sgd"),
    ({"optim": "adamw_torch", "optim_args": "betas=1"}, "optim_args betas=1 is not read where optim is adamw_torch"),
    ({"optim": "muon", "optim_args": "ns_steps=3"}, "optim_args is not read where optim is muon; use momentum"),
    ({"optim": "adamw_torch", "optim_args": "nonsense"}, "optim adamw_torch cannot be used"),
    ({"optim": "adamw_bnb_8bit"}, "optim adamw_bnb_8bit cannot be used"),
    ({"optim": "galore_adamw", "optim_target_modules": ["encoder"]}, "optim galore_adamw cannot be used"),
    (
        {"lr_scheduler_kwargs": {"num_cycles": 2}},
        "lr_scheduler_kwargs is not read where lr_scheduler_type is multistep",
    ),
    ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": "x"}, "lr_scheduler_kwargs is 'x'; use a mapping"),
    ({"lr_scheduler_type": "reduce_lr_on_plateau", "validation_fraction": 0.0}, "lr_scheduler_type reduce_lr_on_plat"),
    ({"torch_compile_backend": "nonsense"}, 'torch_compile_backend is "nonsense".'),
    ({"torch_compile_mode": "nonsense"}, "torch_compile cannot be used here: Unrecognized mode=nonsense"),
    ({"gradient_checkpointing": True}, "ResNetForImageClassification does not support gradient_checkpointing"),
    ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "gradient_checkpointing_kwargs has no effect without"),
    (
        {**VIT, "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"x": 1}},
        "A training batch of 1 images",
    ),
    ({"train_sampling_strategy": "group_by_length"}, 'train_sampling_strategy is "group_by_length".'),
    ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor needs workers"),
    ({"dataloader_prefetch_factor": 0, "dataloader_num_workers": 1}, "dataloader_prefetch_factor is 0"),
    ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers needs workers"),
    ({"dataloader_multiprocessing_context": "spawn"}, "dataloader_multiprocessing_context needs workers"),
    ({"eval_accumulation_steps": 0}, "eval_accumulation_steps is 0"),
    ({"eval_delay": -1}, "eval_delay is -1"),
    ({"data_seed": -1}, "data_seed is -1"),
    ({"debug": "tpu_metrics_debug"}, "debug: tpu_metrics_debug needs a TPU"),
    ({"tf32": True}, ""),
    ({"report_to": "absent_tracker"}, "report_to: absent_tracker is unknown or not installed"),
    ({"use_liger_kernel": True}, "There is no setting use_liger_kernel here: its kernels are for language models."),
    ({"save_only_model": True}, "There is no setting save_only_model here: a run could not resume exactly"),
]


def test_every_field_of_the_installed_version_has_its_place():
    tried = {key for run in RUNS.values() for key in run} | {key for settings, _ in REFUSED for key in settings}
    own = {item.name for item in fields(TrainingKeys)}
    new = sorted({item.name for item in fields(TrainingArguments)} - own - tried - WITHHELD.keys())
    assert not new, f"Transformers {transformers.__version__} has fields that nobody has tried here: {', '.join(new)}."
    assert not tried & WITHHELD.keys() - {"use_liger_kernel", "save_only_model"}


def start(image_folder: Path, folder: Path, settings: dict[str, Any]) -> FinetuneResult:
    """Fine-tune the tiny network, or a network of the settings' own, for an epoch of three steps."""
    network = {key: settings[key] for key in VIT if key in settings}
    recipe = write_recipe(folder, num_train_epochs=1, global_batch_size=32, **network)
    rest = {key: value for key, value in settings.items() if key not in VIT}
    return finetune(recipe, dataset=str(image_folder), output_dir=folder / "run", **rest)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_takes_keys_that_are_accepted(image_folder: Path, tmp_path: Path, name: str):
    known = {item.name for item in fields(TrainingArguments)} | {"model_type", "model_config"}
    settings = {key: value for key, value in RUNS[name].items() if key in known}  # those of the installed version
    result = start(image_folder, tmp_path, settings)
    assert 0 <= result.metrics["test_accuracy"] <= 1


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[" ".join(settings) for settings, _ in REFUSED])
def test_what_cannot_work_is_refused_before_training(image_folder, tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr(ImageClassificationTrainer, "train", lambda *args, **kwargs: pytest.fail("training began"))
    with pytest.raises(UserError) as refused:
        start(image_folder, tmp_path, settings)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_a_recipe_is_told_why_a_key_is_withheld(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("use_cache: true\n")
    with pytest.raises(
        UserError, match='own.yaml, line 1: there is no key "use_cache": it is for models that generate'
    ):
        finetune(tmp_path / "own.yaml", dataset="digits")


def test_without_a_validation_split_nothing_is_evaluated_at_the_start(image_folder: Path, tmp_path: Path):
    recipe = write_recipe(tmp_path, num_train_epochs=1, validation_fraction=0.0, eval_on_start=True)
    finetune(recipe, dataset=str(image_folder), output_dir=tmp_path / "run")
