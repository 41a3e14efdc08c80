"""The keys of `transformers.TrainingArguments` that are no keys here, and what the others of them need in order to act.

Transformers accepts keys that it then ignores, or at which a run fails late. It needs neither torch nor Transformers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hf_finetune.config.training_keys import plain_word
from hf_finetune.errors import UserError

if TYPE_CHECKING:
    from hf_finetune.config.training import FinetuneArguments

# Fields of TrainingArguments that are no keys here, with what takes their place or why they would do harm.
WITHHELD = {
    "do_train": "training and the final evaluation are always done; hf-finetune evaluate evaluates alone",
    "do_eval": "eval_strategy says when to evaluate",
    "do_predict": "hf-finetune predict classifies images",
    "remove_unused_columns": "no column is dropped",
    "label_names": "label_column says which column has the labels",
    "resume_from_checkpoint": "the same command resumes an interrupted run by itself",
    "ignore_data_skip": "a run resumes at the image where it was interrupted, which costs no time",
    "enable_jit_checkpoint": "save_on_signal saves after the step in which a signal comes",
    "save_only_model": "a run could not resume exactly; save_strategy best or no needs less of the disk",
    "save_on_each_node": "checkpoints are in one folder that all machines share",
    "local_rank": "torchrun and accelerate launch set it",
    "parallelism_config": "accelerate launch sets it",
    "accelerator_config": "global_batch_size says how batches are divided, and the order of the images is exact",
    "average_tokens_across_devices": "a loss is always the mean over the images of all processes",
    "dataloader_in_order": "a run that resumes needs its batches in order",
    "auto_find_batch_size": "it would change global_batch_size; use a lower per_device_train_batch_size",
    "prediction_loss_only": "an evaluation measures every metric, which costs next to nothing",
    "eval_do_concat_batches": "metrics are over all images of a split",
    "eval_use_gather_object": "logits are gathered as tensors",
    "batch_eval_metrics": "three numbers of each image are kept for the metrics, and no logits",
    "include_for_metrics": "metrics are given probabilities and labels",
    "neftune_noise_alpha": "its noise is for language models",
    "use_liger_kernel": "its kernels are for language models",
    "liger_kernel_config": "its kernels are for language models",
    "use_cache": "it is for models that generate text",
    "include_num_input_tokens_seen": "images have no tokens",
    "length_column_name": "images are not grouped by length",
    "hub_token": "set HF_TOKEN or log in with hf auth login; here it would be written into the recipe",
    "hub_strategy": "push_to_hub pushes the whole result once, at the end, and no checkpoints",
    "hub_always_push": "push_to_hub pushes the whole result once, at the end",
    "hub_revision": "push_to_hub pushes to the main branch",
}

_WITH_WORKERS = (
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
)
_CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")  # newer versions have both names
_BY_MODULE = ("galore", "apollo")  # optimizers that treat some modules in another way


def check_stock_keys(args: FinetuneArguments) -> None:
    """Check that each key has what it needs in order to act, before Transformers sees them."""
    for name in _WITH_WORKERS:
        if getattr(args, name) and args.dataloader_num_workers == 0:
            raise UserError(f"{name} needs workers; use --dataloader_num_workers 2 or more.")
    _check_mappings(args)
    optimizer = plain_word(args.optim)
    if args.optim_target_modules and not optimizer.startswith(_BY_MODULE):
        raise UserError(
            f"optim_target_modules is not read where optim is {optimizer}; use --optim galore_adamw or apollo_adamw, or"
            " leave it out. To train some modules only, use --freeze."
        )
    if "tpu_metrics_debug" in str(args.debug):
        raise UserError("debug: tpu_metrics_debug needs a TPU; use underflow_overflow, or leave it out.")
    _check_processes(args)


def _check_mappings(args: FinetuneArguments) -> None:
    """Check keys that hold arguments for something else, which must be in use."""
    names = [f"{name}_kwargs" for name in _CHECKPOINTING]
    for name in ("lr_scheduler_kwargs", *names):
        value = getattr(args, name, None)
        if value and not isinstance(value, Mapping) and not str(value).startswith("{"):  # Transformers reads JSON
            raise UserError(f"{name} is {value!r}; use a mapping, such as '{{name: value}}'.")
    for name in names:
        if getattr(args, name, None) and not any(getattr(args, key, None) for key in _CHECKPOINTING):
            raise UserError(f"{name} has no effect without checkpointing; use --gradient_checkpointing as well.")
    schedule = plain_word(args.lr_scheduler_type)
    if args.lr_scheduler_kwargs and schedule == "multistep":
        raise UserError(
            "lr_scheduler_kwargs is not read where lr_scheduler_type is multistep; use --lr_milestones and --lr_gamma."
        )


def _check_processes(args: FinetuneArguments) -> None:
    """Check what needs several processes, before Transformers notes it for this one, and for runs after this run."""
    if args.deepspeed and find_spec("deepspeed") is None:
        raise UserError("deepspeed is not installed; install it with pip install deepspeed, or leave it out.")
    if args.fsdp_config and not args.fsdp:
        raise UserError(
            "fsdp_config has no effect without fsdp; use accelerate launch --config_file scripts/accelerate/fsdp2.yaml."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    if args.fsdp:
        raise UserError(
            "fsdp divides the weights over several processes, and this run has one; use"
            " accelerate launch --config_file scripts/accelerate/fsdp2.yaml, or leave it out."
        )
    if args.ddp_backend:
        raise UserError(
            f"ddp_backend {args.ddp_backend} is for several processes, and this run has one; start it with accelerate"
            " launch or torchrun, or leave it out."
        )
