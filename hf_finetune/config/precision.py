"""The precision that the keys `precision`, `bf16` and `fp16` ask for together."""

from __future__ import annotations

from hf_finetune.config.training_keys import AUTO, BF16, FLOAT32, FP16
from hf_finetune.errors import UserError


def stated_precision(precision: str, bf16: bool | None, fp16: bool | None) -> str:
    """Return the precision that the keys ask for, one of the choices of `precision`.

    `bf16: false` alone is float32, because nothing else that auto might choose is left.

    Args:
        precision: The key of that name.
        bf16: Transformers' flag, None where it is not given.
        fp16: Likewise.

    Raises:
        UserError: They contradict each other.
    """
    flags = {BF16: bf16, FP16: fp16}
    asked = [name for name, flag in flags.items() if flag]
    if len(asked) > 1:
        raise UserError("bf16 and fp16 are both true; use --precision bf16, or --precision fp16.")
    if precision == AUTO:
        return asked[0] if asked else FLOAT32 if bf16 is False else AUTO
    for name, flag in flags.items():
        if flag is not None and flag != (name == precision):
            raise UserError(f"precision is {precision} and {name} is {str(flag).lower()}; leave {name} out.")
    return precision
