"""The keys of a recipe as the keyword arguments of `finetune` and `evaluate`, with their types.

Generated from the dataclasses of hf_finetune.config by `python -m tests.config.test_settings`; a test keeps them equal.
`dataset`, `loss`, `teacher` and `train_transforms` are missing, because they are arguments of their own.
"""

from __future__ import annotations

import os
from typing import Any, Literal, TypedDict


class Settings(TypedDict, total=False):
    """Settings of a run, each a key of a recipe; None takes a key back to its default.

    What each does stands in `hf-finetune train --help-all`; those below "Training" that this package does not change
    are of `transformers.TrainingArguments`.
    """

    # Model
    drop_path: float | None
    freeze: list[str] | None
    head: str | None
    head_dropout: float | None
    head_init: str | None
    load_from: str | os.PathLike[str] | None
    load_from_sha256: str | None
    model_config: dict[str, Any] | None
    model_name_or_path: str | os.PathLike[str] | None
    model_revision: str | None
    model_type: str | None
    num_labels: int | None
    peft: dict[str, Any] | None
    pretrained: bool | None
    trust_remote_code: bool | None

    # Data
    augmentation: str | None
    crop_pct: float | None
    dataset_config: str | None
    dataset_path: str | os.PathLike[str] | None
    dataset_revision: str | None
    decode_cache: str | None
    drop_duplicates: bool | None
    fold: str | None
    group_column: str | None
    image_channels: int | None
    image_column: str | None
    image_mean: list[float] | None
    image_size: int | list[int] | None
    image_std: list[float] | None
    label_column: str | list[str] | None
    label_from_name: str | None
    label_separator: str | None
    label_strip: bool | None
    max_eval_samples: int | None
    max_train_samples: int | None
    on_bad_image: str | None
    resample: str | None
    resize_mode: str | None
    shuffle_buffer_size: int | None
    slice_columns: list[str] | None
    streaming: bool | None
    test_split: str | None
    train_split: str | None
    validation_fraction: float | None
    validation_split: str | None
    value_range: list[float] | None
    weight_column: str | None

    # Training
    activation_checkpointing: bool | None
    activation_checkpointing_kwargs: dict[str, Any] | str | None
    adam_beta1: float | None
    adam_beta2: float | None
    adam_epsilon: float | None
    best_k_soup: int | None
    bf16: bool | None
    bf16_full_eval: bool | None
    calibrate: bool | None
    class_weights: str | list[float] | dict[str, float] | None
    data_seed: int | None
    dataloader_drop_last: bool | None
    dataloader_multiprocessing_context: str | None
    dataloader_num_workers: int | None
    dataloader_persistent_workers: bool | None
    dataloader_pin_memory: bool | None
    dataloader_prefetch_factor: int | None
    ddp_backend: str | None
    ddp_broadcast_buffers: bool | None
    ddp_bucket_cap_mb: int | None
    ddp_find_unused_parameters: bool | None
    ddp_static_graph: bool | None
    ddp_timeout: int | None
    debug: str | list[str] | None
    decay_norm_and_bias: bool | None
    deepspeed: dict[str, Any] | str | None
    disable_tqdm: bool | None
    distillation: dict[str, Any] | None
    early_stopping_patience: int | None
    ema_decay: float | None
    eval_accumulation_steps: int | None
    eval_delay: float | None
    eval_on_start: bool | None
    eval_steps: float | None
    eval_strategy: str | None
    fp16: bool | None
    fp16_full_eval: bool | None
    freeze_epochs: int | None
    fsdp: str | None
    fsdp_config: dict[str, Any] | str | None
    full_determinism: bool | None
    global_batch_size: int | None
    gradient_accumulation_steps: int | None
    gradient_checkpointing: bool | None
    gradient_checkpointing_kwargs: dict[str, Any] | str | None
    greater_is_better: bool | None
    head_lr_multiplier: float | None
    hub_model_id: str | None
    hub_private_repo: bool | None
    image_size_schedule: dict[Any, int] | None
    label_smoothing_factor: float | None
    layer_decay: float | None
    learning_rate: float | None
    license: str | None
    load_best_model_at_end: bool | None
    log_level: str | None
    log_level_replica: str | None
    log_on_each_node: bool | None
    logging_first_step: bool | None
    logging_nan_inf_filter: bool | None
    logging_steps: float | None
    logging_strategy: str | None
    logit_adjustment: float | None
    logit_adjustment_at: str | None
    lookahead_steps: int | None
    loss_args: dict[str, Any] | None
    lr_by_epoch: bool | None
    lr_decay_epochs: float | None
    lr_gamma: float | None
    lr_milestones: list[float] | None
    lr_reaches_end: bool | None
    lr_scheduler_kwargs: dict[str, Any] | str | None
    lr_scheduler_type: str | None
    max_grad_norm: float | None
    max_steps: int | None
    metric_for_best_model: str | None
    momentum: float | None
    nesterov: bool | None
    no_decay: list[str] | None
    not_for: list[str] | None
    num_train_epochs: float | Literal["auto"] | None
    on_nan: list[Any] | None
    optim: str | None
    optim_args: str | None
    optim_target_modules: str | list[str] | None
    output_dir: str | os.PathLike[str] | None
    overwrite_output_dir: bool | None
    param_groups: dict[str, Any] | None
    per_device_eval_batch_size: int | None
    per_device_train_batch_size: int | None
    precision: str | None
    project: str | None
    push_to_hub: bool | None
    repeated_augmentation: int | None
    report_to: str | list[str] | None
    restore_callback_states_from_checkpoint: bool | None
    run_name: str | None
    sampling: str | None
    save_on_signal: bool | None
    save_steps: float | None
    save_strategy: str | None
    save_total_limit: int | None
    seed: int | None
    skip_memory_metrics: bool | None
    sync_batchnorm: bool | None
    tf32: bool | None
    time_budget: str | None
    torch_compile: bool | None
    torch_compile_backend: str | None
    torch_compile_mode: str | None
    torch_empty_cache_steps: int | None
    trackio_bucket_id: str | None
    trackio_space_id: str | None
    trackio_static_space_id: Any
    train_sampling_strategy: str | None
    use_cpu: bool | None
    warmup_between_epochs: bool | None
    warmup_epochs: float | None
    warmup_multiplies: bool | None
    warmup_start_factor: float | None
    warmup_steps: float | None
    warmup_type: str | None
    weight_decay: float | None
