"""The checks of the loss, class weights and which images a step shows. They need neither torch nor Transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.losses import LOSSES, loss_settings

if TYPE_CHECKING:
    from hf_finetune.config.training import FinetuneArguments

ClassWeights = str | Sequence[float] | Mapping[Any, float]
"""A word, a weight for each class in the order of the class ids, or by the name of the class."""

WEIGHT_RULES = ("balanced", "effective")
SAMPLINGS = ("random", "balanced", "sqrt", "weighted")
ADJUSTED_AT = ("training", "end")
_AT_MOST = {"alpha": 1.0, "clip": 1.0, "margin": 1.0}  # settings of losses that are shares, or an angle
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def is_own_loss(name: str) -> bool:
    """Return whether the key `loss` names a function or a class of the user's own, such as `my_losses.poly`."""
    return name not in LOSSES and _DOTTED.fullmatch(name) is not None


def distillation_settings(stated: Mapping[str, Any] | None) -> tuple[float, float]:
    """Return the temperature, and the weight of the teacher, that the key `distillation` holds.

    Raises:
        UserError: One of them cannot be, or another key is there.
    """
    limits = {"temperature": (3.0, math.inf), "weight": (0.5, 1.0)}
    for key, value in (stated or {}).items():
        if key not in limits:
            near = did_you_mean(str(key), limits)
            raise UserError(f'distillation has no setting "{key}".{near} Use {", ".join(limits)}.')
        greatest = limits[key][1]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (is_number and 0 < value <= greatest and math.isfinite(value)):
            most = "" if greatest == math.inf else f" and at most {greatest:g}"
            raise UserError(
                f"distillation: {key} is {value!r}; use a number above 0{most}, such as {limits[key][0]:g}."
            )
    temperature, weight = ((stated or {}).get(key, default) for key, (default, _) in limits.items())
    return float(temperature), float(weight)


def check_loss_keys(args: FinetuneArguments) -> None:
    """Check the loss, its settings, class weights, sampling and repetition."""
    if not is_own_loss(args.loss):
        _check_settings(args.loss, args.loss_args or {})
    elif args.label_smoothing_factor:
        raise UserError("label_smoothing_factor is not read with a loss of your own; smooth the labels there.")
    if args.class_weights is not None:
        _check_class_weights(args.class_weights)
    _check_sampling(args)
    _check_repetition(args)
    if args.logit_adjustment:
        _check_adjustment(args)
    elif args.logit_adjustment_at != ADJUSTED_AT[0]:
        raise UserError(
            f"logit_adjustment_at {args.logit_adjustment_at} says when logits are shifted, and logit_adjustment is not"
            " set; use --logit_adjustment 1 as well."
        )
    distillation_settings(args.distillation)


def check_distillation(args: FinetuneArguments, has_teacher: bool) -> None:
    """Check that there is a teacher, named or given as an object, where settings say how to learn from one."""
    if args.distillation is not None and not has_teacher:
        raise UserError(
            "distillation says how to learn from a teacher, and there is none; use --teacher MODEL as well."
        )


def _check_adjustment(args: FinetuneArguments) -> None:
    if args.loss != "cross_entropy":
        raise UserError(f"logit_adjustment is for the loss cross_entropy, and loss is {args.loss}; leave one out.")
    others = {"sampling": args.sampling, "class_weights": args.class_weights}
    for name, value in others.items():
        if value in (*SAMPLINGS[1:], *WEIGHT_RULES):
            raise UserError(f"logit_adjustment and {name} {value} both even out the classes; leave one out.")


def _check_sampling(args: FinetuneArguments) -> None:
    if args.sampling == "random":
        return
    if args.train_sampling_strategy != "random":
        raise UserError(
            f"sampling {args.sampling} draws images, and train_sampling_strategy is {args.train_sampling_strategy};"
            " leave one out."
        )
    if args.sampling != "weighted" and args.class_weights in WEIGHT_RULES:
        raise UserError(
            f"sampling {args.sampling} and class_weights {args.class_weights} both even out the classes; leave one out."
        )


def _check_repetition(args: FinetuneArguments) -> None:
    times = args.repeated_augmentation
    if times == 1:
        return
    if times < 1:
        raise UserError(f"repeated_augmentation is {times}; use a number of at least 1, such as 3.")
    if times > args.global_batch_size:
        raise UserError(
            f"repeated_augmentation is {times}, and a step has global_batch_size {args.global_batch_size}; use a"
            " smaller number, or a larger batch."
        )
    for name in ("sampling", "train_sampling_strategy"):
        value = getattr(args, name)
        if value != "random":
            raise UserError(
                f"repeated_augmentation and {name} {value} both choose the images of an epoch; leave one out."
            )


def check_weighted(weight_column: str | None, args: FinetuneArguments) -> None:
    """Check that weighted sampling has weights, of images or of classes, and that a column of weights is used."""
    is_weighted = args.sampling == "weighted"
    if weight_column is None:
        if is_weighted and args.class_weights is None:
            raise UserError(
                "sampling weighted draws in proportion to a column of weights, or to those of the classes; use"
                " --weight_column NAME or --class_weights as well."
            )
    elif not is_weighted:
        raise UserError(
            f"weight_column {weight_column} says how often images are drawn, and sampling is {args.sampling}; use"
            " --sampling weighted as well, or leave it out."
        )
    elif args.class_weights is not None:
        raise UserError(
            "sampling weighted draws in proportion to weight_column or to class_weights, and both are set; leave one"
            " out."
        )


def _check_class_weights(setting: ClassWeights) -> None:
    if isinstance(setting, str):
        if setting not in WEIGHT_RULES:
            raise UserError(
                f'class_weights is "{setting}".{did_you_mean(setting, WEIGHT_RULES)} Use {", ".join(WEIGHT_RULES)},'
                " weights by name such as '{rare: 5}', or a list in the order of the classes."
            )
        return
    stated = setting if isinstance(setting, Mapping) else dict(enumerate(setting))
    for name, weight in stated.items():
        is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not (is_number and 0 <= weight < math.inf):
            of = f"of {name}" if isinstance(setting, Mapping) else f"number {name + 1}"
            raise UserError(f"class_weights: the weight {of} is {weight!r}; use a number of at least 0.")
    if not isinstance(setting, Mapping) and not any(setting):
        raise UserError(f"class_weights is {setting}, which leaves nothing to learn; use a weight above 0.")


def _check_settings(name: str, settings: Mapping[str, Any]) -> None:
    known = loss_settings(name)
    for key, value in settings.items():
        if key not in known:
            use = f"Use {', '.join(known)}." if known else "It has none; leave loss_args out."
            raise UserError(f'loss_args: {name} has no setting "{key}".{did_you_mean(str(key), known)} {use}')
        greatest = _AT_MOST.get(key, math.inf)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not (is_number and 0 <= value <= greatest):
            limits = "of at least 0" if greatest == math.inf else f"from 0 to {greatest:g}"
            raise UserError(f"loss_args: {key} of {name} is {value!r}; use a number {limits}.")
