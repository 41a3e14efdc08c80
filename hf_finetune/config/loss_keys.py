"""The checks of the loss and its settings. They need neither torch nor Transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.losses import LOSSES, loss_settings

if TYPE_CHECKING:
    from hf_finetune.config.training import FinetuneArguments

_AT_MOST = {"alpha": 1.0, "clip": 1.0}  # settings of losses that are shares
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def is_own_loss(name: str) -> bool:
    """Return whether the key `loss` names a function or a class of the user's own, such as `my_losses.poly`."""
    return name not in LOSSES and _DOTTED.fullmatch(name) is not None


def check_loss_keys(args: FinetuneArguments) -> None:
    """Check the loss and its settings."""
    if not is_own_loss(args.loss):
        _check_settings(args.loss, args.loss_args or {})
    elif args.label_smoothing_factor:
        raise UserError("label_smoothing_factor is not read with a loss of your own; smooth the labels there.")


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
