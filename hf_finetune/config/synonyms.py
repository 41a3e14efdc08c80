"""What other programs call a key, and what people ask for that is no key: the answer to a name that is not there."""

from __future__ import annotations

import re
from collections.abc import Collection

# Key of this package: its names elsewhere (timm, Ultralytics, MMPretrain, Lightning, Keras, common habit).
OTHER_NAMES = {
    "dataset": (
        "data",
        "data_dir",
        "data_path",
        "data_root",
        "dataset_name",
        "datasets",
        "train_dir",
        "root",
        "images",
    ),
    "model_name_or_path": (
        "model",
        "model_name",
        "model_path",
        "pretrained_model",
        "pretrained_model_name_or_path",
        "weights",
        "checkpoint",
        "ckpt",
        "arch",
        "architecture",
        "backbone",
        "network",
    ),
    "group_column": ("group", "groups", "group_by", "group_col", "patient_column", "groups_column"),
    "weight_column": ("weights_column", "weight_col", "sample_weight", "sample_weights"),
    "slice_columns": ("slices", "slice_column", "slice_by", "subgroups", "subgroup_columns"),
    "recipe": ("config", "cfg", "config_file", "yaml"),
    "output_dir": (
        "output",
        "output_folder",
        "output_path",
        "out",
        "out_dir",
        "outdir",
        "save_dir",
        "work_dir",
        "log_dir",
        "name",
        "default_root_dir",
    ),
    "overwrite_output_dir": ("overwrite", "force", "exist_ok"),
    "num_train_epochs": ("epochs", "epoch", "num_epochs", "n_epochs", "max_epochs", "train_epochs"),
    "time_budget": ("max_time", "time", "time_limit", "max_duration"),
    "max_steps": ("steps", "max_iters", "iterations", "num_steps", "total_steps", "train_steps"),
    "learning_rate": ("lr", "lr0", "base_lr", "init_lr", "initial_lr", "max_lr"),
    "global_batch_size": ("batch", "batch_size", "bs", "train_batch_size", "total_batch_size"),
    "per_device_train_batch_size": ("per_gpu_train_batch_size", "micro_batch_size", "per_gpu_batch_size"),
    "per_device_eval_batch_size": (
        "eval_batch_size",
        "val_batch_size",
        "validation_batch_size",
        "test_batch_size",
        "per_gpu_eval_batch_size",
    ),
    "gradient_accumulation_steps": ("grad_accum_steps", "grad_accum", "accumulate", "accumulate_grad_batches"),
    "optim": ("optimizer", "opt"),
    "weight_decay": ("wd", "decay", "l2"),
    "layer_decay": ("llrd", "layer_decay_rate", "layerwise_lr_decay", "lr_layer_decay", "discriminative_lr"),
    "head_lr_multiplier": ("head_lr_mult", "head_lr", "lr_mult", "classifier_lr_multiplier"),
    "param_groups": ("paramwise_cfg", "custom_keys", "params_groups", "parameter_groups"),
    "max_grad_norm": ("clip_grad", "grad_clip", "clip_grad_norm", "gradient_clip_val", "gradient_clipping"),
    "loss": ("criterion", "loss_fn", "loss_function", "loss_type", "loss_name"),
    "class_weights": ("class_weight", "cls_weights", "class_weighting"),
    "logit_adjustment": ("logit_adjust", "logit_adjusted", "balanced_softmax"),
    "sampling": (
        "sampler",
        "oversample",
        "oversampling",
        "weighted_sampler",
        "balanced_sampler",
        "class_balanced_sampling",
    ),
    "repeated_augmentation": (
        "repeated_aug",
        "repeat_aug",
        "repeat_augmentation",
        "ra_sampler",
        "ra_reps",
        "aug_repeats",
        "batch_augmentation",
    ),
    "label_smoothing_factor": ("label_smoothing", "smoothing", "label_smooth"),
    "ema_decay": ("ema", "model_ema", "model_ema_decay", "use_ema"),
    "lr_scheduler_type": ("scheduler", "lr_scheduler", "sched", "schedule", "lr_schedule"),
    "lr_milestones": ("milestones", "decay_milestones"),
    "lr_gamma": ("gamma", "decay_rate", "lr_decay"),
    "warmup_epochs": ("warmup", "lr_warmup_epochs"),
    "image_size": ("imgsz", "img_size", "input_size", "img", "resolution", "size"),
    "image_mean": ("mean",),
    "image_std": ("std",),
    "resize_mode": ("crop_mode", "resize_type"),
    "crop_pct": ("crop_ratio",),
    "resample": ("interpolation",),
    "train_transforms": ("transforms", "transform"),
    "augmentation": ("augment", "augmentations", "data_augmentation"),
    "num_labels": ("num_classes", "nc", "n_classes", "classes"),
    "drop_path": ("drop_path_rate", "stochastic_depth", "stochastic_depth_prob", "droppath"),
    "head_dropout": ("classifier_dropout", "dropout_head", "drop_head", "cls_dropout"),
    "freeze": ("freeze_backbone", "freeze_layers", "frozen"),
    "validation_fraction": ("val_fraction", "val_size", "test_size", "validation_size", "val_percent"),
    "validation_split": ("val_split", "val", "valid_split"),
    "max_train_samples": ("train_samples", "limit_train_batches"),
    "max_eval_samples": ("eval_samples", "max_val_samples", "limit_val_batches"),
    "image_column": ("image_column_name", "image_key", "image_col"),
    "label_column": ("label_column_name", "label_key", "label_col", "target_column"),
    "dataloader_num_workers": ("workers", "num_workers", "n_workers", "loader_workers"),
    "seed": ("random_seed", "random_state", "manual_seed"),
    "eval_strategy": ("evaluation_strategy", "eval_interval", "val_interval", "check_val_every_n_epoch"),
    "best_k_soup": ("soup", "model_soup", "model_soups", "average_checkpoints", "checkpoint_averaging", "swa"),
    "calibrate": ("calibration", "temperature_scaling", "temperature"),
    "image_size_schedule": ("progressive_resizing", "progressive_resize", "multi_scale", "image_sizes", "res_schedule"),
    "early_stopping_patience": ("patience", "early_stopping", "early_stop", "early_stopping_rounds"),
    "logging_steps": ("log_interval", "print_freq", "log_every_n_steps"),
    "save_total_limit": ("max_keep_ckpts", "save_top_k", "checkpoint_hist"),
    "metric_for_best_model": ("monitor", "metric", "save_best", "eval_metric"),
    "on_bad_image": ("on_bad_picture", "skip_bad_images"),
    "decode_cache": ("cache", "cache_images"),
    "trust_remote_code": ("trust",),
    "hub_model_id": ("repo_id", "repo", "hub_repo"),
    "push_to_hub": ("push", "upload"),
    "torch_compile": ("compile", "torchcompile"),
    "report_to": ("logger", "tracker", "wandb", "tensorboard", "log_with"),
    "log_level": ("verbose", "verbosity", "quiet"),
    "disable_tqdm": ("no_progress_bar", "progress_bar", "no_progress"),
    "use_cpu": ("cpu", "no_cuda"),
}
_KEY_OF = {other: key for key, others in OTHER_NAMES.items() for other in others}

_LR_FINDER = "a learning rate is suggested by: hf-finetune lr-finder --dataset DATASET"
_LAUNCHER = "one process per GPU is started by: torchrun --nproc_per_node N scripts/run_finetune.py"
_PRECISION = "use --precision bf16, or --precision fp16 for a GPU without bfloat16"
_ADAPTERS = "use --peft, such as --peft '{r: 8, lora_alpha: 16}'"
_PADDING = "use --resize_mode pad, which fits whole images into borders, or --resize_mode squash"
_NO_TTA = "it is of evaluate and predict, as hf-finetune evaluate --tta flip"
# What others switch on by a flag and is a transform of `train_transforms` here: its flags elsewhere.
_TRANSFORMS = {
    "MixUp as the last transform": ("mixup", "mixup_alpha", "mixup_prob"),
    "CutMix as the last transform": ("cutmix", "cutmix_alpha", "cutmix_prob"),
    "AutoAugment, RandAugment or TrivialAugmentWide": ("aa", "auto_augment", "autoaugment", "augmentation_policy"),
    "RandAugment": ("randaugment", "rand_augment", "randaug"),
    "TrivialAugmentWide": ("trivial_augment", "trivialaugment", "trivial_augment_wide"),
    "AugMix": ("augmix",),
    "RandomHorizontalFlip": ("hflip", "fliplr", "horizontal_flip", "random_flip"),
    "RandomVerticalFlip": ("vflip", "flipud", "vertical_flip"),
    "RandomRotation": ("rotation", "degrees", "random_rotation"),
    "ColorJitter": ("color_jitter", "colorjitter"),
    "RandomErasing": ("reprob", "random_erasing", "random_erase", "erasing", "cutout"),
    "GridMask": ("gridmask", "grid_mask"),
}
# What is asked for: the sentence that answers. Some is not built, and then nothing is guessed at.
ANSWERS = {
    "resume": "the same command resumes an interrupted run by itself",
    "resume_from": "the same command resumes an interrupted run by itself",
    "auto_resume": "the same command resumes an interrupted run by itself",
    "device": "use --use_cpu for the CPU, or choose GPUs with CUDA_VISIBLE_DEVICES",
    "devices": "choose GPUs with CUDA_VISIBLE_DEVICES; " + _LAUNCHER,
    "gpu": "choose GPUs with CUDA_VISIBLE_DEVICES",
    "gpus": "choose GPUs with CUDA_VISIBLE_DEVICES; " + _LAUNCHER,
    "gpu_ids": "choose GPUs with CUDA_VISIBLE_DEVICES",
    "num_gpus": _LAUNCHER,
    "nproc_per_node": _LAUNCHER,
    "distributed": _LAUNCHER,
    "amp": _PRECISION,
    "mixed_precision": _PRECISION,
    "half": _PRECISION,
    "focal_loss": "use --loss focal",
    "bce_loss": "use --loss bce",
    "asymmetric_loss": "use --loss asymmetric",
    "lr_finder": _LR_FINDER,
    "lr_find": _LR_FINDER,
    "auto_lr_find": _LR_FINDER,
    "dropout": "use --head_dropout before the last layer; --model_config holds the rates inside an architecture",
    "drop_rate": "use --head_dropout before the last layer; --model_config holds the rates inside an architecture",
    **dict.fromkeys(
        ("tune", "n_trials", "num_trials", "sweep", "search_space", "hyperparameter_search", "optuna"),
        "use the command hf-finetune tune, which takes the same flags",
    ),
    "lora": _ADAPTERS,
    "lora_r": _ADAPTERS,
    "lora_rank": _ADAPTERS,
    "lora_alpha": _ADAPTERS,
    "use_lora": _ADAPTERS,
    "dora": "use --peft '{use_dora: true}'",
    "use_dora": "use --peft '{use_dora: true}'",
    "use_peft": _ADAPTERS,
    "adapter": _ADAPTERS,
    "letterbox": _PADDING,
    "pad": _PADDING,
    "padding": _PADDING,
    "keep_aspect_ratio": _PADDING,
    "keep_ratio": _PADDING,
    "squash": "use --resize_mode squash",
    "stretch": "use --resize_mode squash",
    "rect": "use --image_size with height and width, such as --image_size 224 112",
    "tta": _NO_TTA,
    "test_time_augmentation": _NO_TTA,
    **dict.fromkeys(
        ("folds", "k_folds", "kfold", "num_splits", "n_splits", "cross_validation", "cv"),
        "use the command hf-finetune kfold, which takes the same flags",
    ),
    **{name: f"use --train_transforms with {step}" for step, names in _TRANSFORMS.items() for name in names},
}


def answer(name: str, known: Collection[str] | None = None, flag: str = "--") -> str | None:
    """Return what to use in place of a name that this package does not have.

    Args:
        name: What the user wrote, such as `epochs` or `img-size`.
        known: The keys that can be used instead; all of them by default.
        flag: What precedes a key: `--` on the command line, nothing in a recipe.

    Returns:
        The end of a sentence, such as `use --num_train_epochs`, or None for a name whose meaning is not known.
    """
    name = name.replace("-", "_").lower()
    if name in ANSWERS:
        advised = re.findall(r"\b(?:use|or) --(\w+)", ANSWERS[name])
        if known is not None and not set(advised) <= set(known):
            return None
        return re.sub(r"\buse --", f"use {flag}", ANSWERS[name]).replace("or --", f"or {flag}")
    key = _KEY_OF.get(name)
    return f"use {flag}{key}" if key and (known is None or key in known) else None
