"""The checks of settings: words and numbers that cannot be, and settings that contradict each other.

Each check raises `UserError` with one line that names the key, its value and what to use instead. The checks need
neither torch nor Transformers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hf_finetune.config.durations import parse_duration
from hf_finetune.config.folds import check_division
from hf_finetune.config.loss_keys import check_loss_keys
from hf_finetune.config.peft_keys import check_peft
from hf_finetune.config.precision import stated_precision
from hf_finetune.config.stock_fields import members
from hf_finetune.config.stock_keys import check_stock_keys
from hf_finetune.config.training_keys import MULTISTEP, MUON, ONE_CYCLE, SGD, plain_word
from hf_finetune.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from hf_finetune.config.data import DataArguments
    from hf_finetune.config.model import ModelArguments
    from hf_finetune.config.training import FinetuneArguments

# The least and the greatest value of numbers that would otherwise fail in mid-run, or be taken for another.
_RANGES = {
    "learning_rate": (0, math.inf),
    "momentum": (0, 1),
    "weight_decay": (0, math.inf),
    "layer_decay": (0, 1),
    "head_lr_multiplier": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "lr_gamma": (0, math.inf),
    "ema_decay": (0, 1),
    "lookahead_steps": (1, math.inf),
    "label_smoothing_factor": (0, 1),
    "logit_adjustment": (0, math.inf),
    "warmup_steps": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "warmup_start_factor": (0, 1),
    "best_k_soup": (2, math.inf),
    "freeze_epochs": (1, math.inf),
    "early_stopping_patience": (1, math.inf),
    "per_device_eval_batch_size": (1, math.inf),
    "save_total_limit": (1, math.inf),
    "dataloader_num_workers": (0, math.inf),
    "dataloader_prefetch_factor": (1, math.inf),
    "eval_accumulation_steps": (1, math.inf),
    "eval_delay": (0, math.inf),
    "ddp_timeout": (1, 365 * 24 * 3600),
    "seed": (0, 2**32 - 1),
    "data_seed": (0, 2**32 - 1),
}
# Keys of one word, with Transformers' enumeration of the choices and those that this package adds.
_ENUMERATIONS = {
    "lr_scheduler_type": ("SchedulerType", (MULTISTEP, ONE_CYCLE)),
    "optim": ("OptimizerNames", (MUON,)),
    "logging_strategy": ("IntervalStrategy", ()),
}
_GROUP_OPTIONS = ("lr_multiplier", "weight_decay")  # of a pattern in param_groups
_ABOVE_ZERO = ("lr_decay_epochs", "layer_decay", "logging_steps", "eval_steps", "save_steps")


# ---- any dataclass ----


def check_choices(arguments: DataclassInstance) -> None:
    """Check every field that lists its choices in its metadata, and under "or" what else it may be."""
    for item in fields(arguments):
        value = getattr(arguments, item.name)
        if "choices" in item.metadata and not item.metadata.get("or", lambda _: False)(value):
            check_choice(item.name, value, item.metadata["choices"])


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Check that `value`, a word or an enum's member, is one of `choices`; None is left to the type check."""
    value = getattr(value, "value", value)
    if value is None or value in choices:
        return
    longer = [choice for choice in choices if choice.startswith(str(value))]  # adam for adamw_torch
    near = f' Did you mean "{longer[0]}"?' if longer else did_you_mean(str(value), choices)
    raise UserError(f'{name} is "{value}".{near} Use one of {", ".join(choices)}.')


def _check_at_least_one(arguments: DataclassInstance, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; use a number of at least 1.")


# ---- data and model ----


def check_data(data: DataArguments) -> None:
    """Check which images are used and how they are read."""
    check_choices(data)
    if data.streaming and data.decode_cache == "always":
        raise UserError(
            "decode_cache is always, but with streaming no image is kept; use --decode_cache auto, or"
            " --streaming false."
        )
    if data.streaming and data.drop_duplicates:
        raise UserError("drop_duplicates reads all images before training, which are streamed; leave --streaming out.")
    check_division(data)
    if data.label_from_name is not None:
        _check_label_from_name(data.label_from_name)
        if data.streaming:
            raise UserError("label_from_name is for a folder of images, which is not streamed; leave --streaming out.")
    _check_label_columns(data)
    if data.augmentation is not None and data.train_transforms is not None:
        raise UserError(
            f"augmentation {data.augmentation} is a list of train_transforms, and there is another; use"
            " --train_transforms null, or leave augmentation out."
        )
    if data.image_size is not None:
        _check_image_size(data.image_size)
    if data.resize_mode in ("squash", "pad") and data.crop_pct not in (None, 1):
        raise UserError(
            f"crop_pct is {data.crop_pct}, but with resize_mode {data.resize_mode} nothing is cropped; use --crop_pct"
            " null, or --resize_mode crop."
        )
    _check_at_least_one(data, ("max_train_samples", "max_eval_samples", "shuffle_buffer_size"))
    _check_value_range(data.value_range)
    _check_image_channels(data)
    if not 0 <= data.validation_fraction < 1:
        raise UserError(
            f"validation_fraction is {data.validation_fraction}; use a fraction of at least 0 and below 1, such as 0.1."
        )


def _check_label_columns(data: DataArguments) -> None:
    columns = data.label_columns
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"label_column names {repeated} twice; use each column once.")
    if data.label_separator == "":
        raise UserError("label_separator is empty; use what separates labels in a text, such as '|'.")
    if data.label_separator is not None and len(columns) > 1:
        raise UserError(
            "label_separator divides the texts of one column, and label_column names several; leave one out."
        )
    for key, used in (("label_separator", data.label_separator is not None), ("label_column", len(columns) > 1)):
        if used and data.streaming:
            what = "divides texts" if key == "label_separator" else "names several columns"
            raise UserError(f"{key} {what}, which a stream does not; use a column of lists, or leave --streaming out.")


def _check_image_size(size: int | list[int]) -> None:
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise UserError(
            f"image_size is {size}; use the side in pixels, such as 224, or height and width, such as 224 112."
        )


def _check_value_range(value_range: list[float] | None) -> None:
    if value_range is None:
        return
    if len(value_range) != 2 or not all(map(math.isfinite, value_range)) or value_range[0] >= value_range[1]:
        shown = " ".join(f"{value:g}" for value in value_range)
        raise UserError(f"value_range is {shown}; use two numbers, the lower first, such as --value_range 0 4095.")


def _check_image_channels(data: DataArguments) -> None:
    channels = data.image_channels
    if channels is None:
        return
    if channels < 1:
        raise UserError(f"image_channels is {channels}; use a number of at least 1, such as 13.")
    if data.streaming:
        raise UserError("image_channels is for images that are not streamed; leave --streaming out.")
    if data.decode_cache == "always" and channels != 3:
        raise UserError("decode_cache keeps RGB, and image_channels is set; use --decode_cache auto.")
    if data.value_range is not None and channels != 3:
        raise UserError(
            "value_range makes 8 bits of more, and with image_channels values stay as they are stored; leave one out."
        )


def _check_label_from_name(pattern: str) -> None:
    example = r"use one group for the class, such as '^(\w+?)_\d+' for cat_01.jpg"
    try:
        groups = re.compile(pattern).groups
    except (re.error, OverflowError) as error:
        raise UserError(f"label_from_name {pattern!r} is no regular expression: {error}; {example}.") from error
    if groups != 1:
        more = ", and (?:...) for other parentheses" if groups else ""
        raise UserError(f"label_from_name {pattern!r} has {groups or 'no'} groups; {example}{more}.")


def check_model(model: ModelArguments) -> None:
    """Check which network is used and from which weights."""
    check_choices(model)
    for name in model.freeze or ():
        if not isinstance(name, str):
            raise UserError(f"freeze holds {name!r}; use backbone, batch_norm, or names of modules of the network.")
    check_peft(model)
    for name in ("drop_path", "head_dropout"):
        rate = getattr(model, name)
        if rate is not None and not 0 <= rate < 1:
            raise UserError(f"{name} is {rate}; use a number from 0 to below 1, such as 0.1.")
    if model.drop_path and "backbone" in (model.freeze or ()):
        raise UserError("drop_path leaves out blocks of the backbone, which is frozen; leave drop_path or freeze out.")
    if model.load_from_sha256 is not None and model.load_from is None:
        raise UserError("load_from_sha256 is given without load_from; use --load_from FILE_OR_URL as well.")
    if model.load_from is not None and not model.pretrained:
        raise UserError("pretrained is false, so that load_from would not be read; use --pretrained true.")


# ---- training ----


def check_training(args: FinetuneArguments) -> None:
    """Check everything about training that does not depend on the machine."""
    for name, (enumeration, own) in _ENUMERATIONS.items():
        check_choice(name, getattr(args, name), [*members(enumeration), *own])
    check_choices(args)
    check_loss_keys(args)
    _check_numbers(args)
    _check_on_nan(args.on_nan)
    _check_best_model(args)
    _check_early_stopping(args)
    check_freeze_epochs(args)
    _check_image_sizes(args)
    _check_soup(args)
    _check_momentum(args)
    _check_param_groups(args.param_groups or {})
    _check_hub(args)
    _check_warm_up(args)
    check_choice("train_sampling_strategy", args.train_sampling_strategy, ("random", "sequential"))
    check_stock_keys(args)
    stated_precision(args.precision, args.bf16, args.fp16)
    _check_time_budget(args)
    _check_lists(args)


def _check_numbers(args: FinetuneArguments) -> None:
    for name, (least, greatest) in _RANGES.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= greatest:
            limits = f"of at least {least}" if greatest == math.inf else f"from {least} to {greatest}"
            raise UserError(f"{name} is {value}; use a number {limits}.")
    for name in _ABOVE_ZERO:
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise UserError(f"{name} is {value}; use a number above 0.")
    if args.num_train_epochs < 0:  # 0 trains nothing but a fitted head; auto is NaN until the images are counted
        raise UserError(f"num_train_epochs is {args.num_train_epochs:g}; use a number above 0, or auto.")
    if args.max_steps < 1 and args.max_steps != -1:
        raise UserError(f"max_steps is {args.max_steps}; use a number of at least 1, or null for whole epochs.")


def _check_on_nan(on_nan: list[Any]) -> None:
    word, *count = on_nan or ["stop"]
    is_count = len(count) == 1 and type(count[0]) is int and count[0] > 0
    if not (is_count if word == "skip" else word == "stop" and not count):
        written = " ".join(map(str, on_nan))
        raise UserError(f'on_nan is "{written}"; use stop, or skip and a number of steps, such as skip 10.')


def _check_best_model(args: FinetuneArguments) -> None:
    evaluates, saves = map(plain_word, (args.eval_strategy, args.save_strategy))
    if args.load_best_model_at_end and saves not in (evaluates, "best"):
        advice = "--load_best_model_at_end false" if evaluates == "no" else f"--save_strategy {evaluates}"
        raise UserError(
            f"eval_strategy is {evaluates} and save_strategy is {saves}, but only a checkpoint that was evaluated"
            f" can be chosen as the best; use {advice}."
        )


def check_freeze_epochs(args: FinetuneArguments) -> None:
    """Check that epochs are left to train everything; where their number is not known yet, it is asked again."""
    epochs = args.freeze_epochs
    if epochs is not None and args.time_budget is not None:
        raise UserError("time_budget starts with a probed head, which is trained already; leave freeze_epochs out.")
    if epochs is not None and args.max_steps < 0 and epochs >= args.num_train_epochs:
        raise UserError(
            f"freeze_epochs is {epochs}, which leaves none of {args.num_train_epochs:g} epochs to train everything;"
            " use fewer, or --freeze backbone to train the head alone."
        )


def _check_image_sizes(args: FinetuneArguments) -> None:
    schedule = args.image_size_schedule
    if schedule is None:
        return
    example = "use shares of the epochs and pixels, such as {0: 128, 0.5: 192, 0.8: 224}"
    for share, size in schedule.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise UserError(f"image_size_schedule: {share!r} is no share from 0 to below 1; {example}.")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"image_size_schedule: {size!r} is no number of pixels; {example}.")
    if not schedule:
        raise UserError(f"image_size_schedule is empty; {example}.")
    if args.time_budget is not None:
        raise UserError("image_size_schedule goes by epochs, and time_budget by the clock; leave one out.")


def _check_soup(args: FinetuneArguments) -> None:
    if args.best_k_soup is None:
        return
    if not args.load_best_model_at_end:
        raise UserError("best_k_soup averages the best checkpoints; use --load_best_model_at_end true.")
    if args.ema_decay is not None:
        raise UserError("ema_decay and best_k_soup both average the weights; leave one out.")
    if args.time_budget is not None:
        raise UserError("best_k_soup takes time after the training, which time_budget does not plan; leave one out.")


def _check_early_stopping(args: FinetuneArguments) -> None:
    strategy = plain_word(args.eval_strategy)
    if args.early_stopping_patience is not None and strategy == "no":
        raise UserError(
            "early_stopping_patience counts evaluations, but eval_strategy is no; use --eval_strategy epoch."
        )


def _check_momentum(args: FinetuneArguments) -> None:
    if args.optim in (SGD, MUON) and args.optim_args:
        raise UserError(
            f"optim_args is not read where optim is {args.optim}; use --momentum, --nesterov, --weight_decay."
        )
    if args.nesterov and not args.momentum:
        raise UserError("nesterov needs a momentum, which is 0; use --momentum 0.9 or --nesterov false.")


def _check_param_groups(groups: Mapping[str, Any]) -> None:
    example = "use such as {'*.bias': {lr_multiplier: 2, weight_decay: 0}}"
    for pattern, options in groups.items():
        if not isinstance(options, Mapping) or not options:
            raise UserError(f'param_groups: "{pattern}" holds {options!r}; {example}.')
        for name, value in options.items():
            if name not in _GROUP_OPTIONS:
                near = did_you_mean(str(name), _GROUP_OPTIONS)
                raise UserError(f'param_groups: "{pattern}" has no option "{name}".{near} {example.capitalize()}.')
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise UserError(f'param_groups: {name} of "{pattern}" is {value!r}; use a number of at least 0.')


def _check_hub(args: FinetuneArguments) -> None:
    if not args.push_to_hub:
        for name in ("hub_model_id", "hub_private_repo"):
            if getattr(args, name) is not None:
                raise UserError(f"{name} is set, but nothing is pushed; use --push_to_hub, or --{name} null.")


def _check_warm_up(args: FinetuneArguments) -> None:
    if args.warmup_steps and args.warmup_epochs:
        raise UserError(
            f"warmup_steps is {args.warmup_steps:g} and warmup_epochs is {args.warmup_epochs:g}; use one of them."
        )
    if args.warmup_multiplies and args.warmup_start_factor is None:
        raise UserError("warmup_multiplies needs to know where the warm-up begins; use --warmup_start_factor 0.001.")
    if (args.warmup_type != "linear" or args.warmup_between_epochs) and args.warmup_start_factor is None:
        name = "warmup_between_epochs" if args.warmup_between_epochs else "warmup_type"
        raise UserError(f"{name} needs to know where the warm-up begins; use --warmup_start_factor 0.1.")
    schedule = plain_word(args.lr_scheduler_type)
    if schedule == "one_cycle" and (args.warmup_steps or args.warmup_epochs):
        raise UserError(
            "one_cycle has a warm-up of its own; leave warmup_epochs and warmup_steps out, or use"
            " --lr_scheduler_kwargs '{pct_start: 0.3}' for its share of the run."
        )
    for name in ("lr_decay_epochs", "lr_reaches_end"):
        if getattr(args, name) and schedule == "multistep":
            raise UserError(f"{name} has no meaning for multistep; its lr_milestones say when it falls.")


def _check_time_budget(args: FinetuneArguments) -> None:
    if args.time_budget is None:
        return
    if args.early_stopping_patience is not None:
        raise UserError("time_budget and early_stopping_patience both end a run; leave one out.")
    parse_duration("time_budget", str(args.time_budget))


def _check_lists(args: FinetuneArguments) -> None:
    if any(milestone <= 0 for milestone in args.lr_milestones):
        raise UserError(f"lr_milestones is {args.lr_milestones}; use epochs above 0, such as [15].")
    for name, words in (("no_decay", args.no_decay), ("not_for", args.not_for)):
        if odd := [value for value in words or () if not isinstance(value, str)]:
            raise UserError(f"{name} holds {odd[0]!r}; use a list of words.")
