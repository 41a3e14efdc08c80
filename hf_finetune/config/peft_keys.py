"""The settings of the key `peft`, checked. They need neither torch nor Transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from hf_finetune.config.model import ModelArguments

AUTO_TARGETS = "auto"


@dataclass(frozen=True)
class AdapterSettings:
    """What LoRA adds to a network, by the names that PEFT's `LoraConfig` has.

    Attributes:
        r: The rank of what is added to each layer.
        lora_alpha: What is added counts `lora_alpha / r` times; None for twice.
        use_dora: Whether the size of each output's weights is trained apart from their direction (DoRA).
        target_modules: The layers, by their names or the ends of them; None for those that `models.adapters` finds.
    """

    r: int = 8
    lora_alpha: float | None = None
    use_dora: bool = False
    target_modules: tuple[str, ...] | None = None

    @property
    def alpha(self) -> float:
        """`lora_alpha`, or twice the rank."""
        return 2 * self.r if self.lora_alpha is None else self.lora_alpha


def check_peft(model: ModelArguments) -> None:
    """Check the key `peft`, and what does not go with it.

    Raises:
        UserError: One of its settings cannot be, or another key contradicts it.
    """
    if model.peft is None:
        return
    adapter_settings(model.peft)
    others = [name for name in model.freeze or () if name != "batch_norm"]
    if others:
        raise UserError(
            f"peft freezes everything but its adapters and the head, and freeze holds {others[0]}; leave one out, or"
            " name the layers that get an adapter in target_modules."
        )
    if (model.model_type is not None and model.load_from is None) or not model.pretrained:
        raise UserError(
            "peft trains a few weights beside pretrained ones, and here all weights are random; leave peft out."
        )


def adapter_settings(stated: Mapping[str, Any]) -> AdapterSettings:
    """Return the settings that the key `peft` holds.

    Raises:
        UserError: One of them is unknown or cannot be.
    """
    known = [field.name for field in fields(AdapterSettings)]
    for key in stated:
        if key not in known:
            raise UserError(
                f'peft has no setting "{key}".{did_you_mean(str(key), known)} Use {", ".join(known)}, such as'
                " '{r: 8, lora_alpha: 16}'."
            )
    r, alpha, use_dora = stated.get("r", 8), stated.get("lora_alpha"), stated.get("use_dora", False)
    if type(r) is not int or r < 1:
        raise UserError(f"peft: r is {r!r}; use a whole number of at least 1, such as 8.")
    is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and 0 < alpha < math.inf
    if alpha is not None and not is_number:
        raise UserError(f"peft: lora_alpha is {alpha!r}; use a number above 0, such as {2 * r}.")
    if type(use_dora) is not bool:
        raise UserError(f"peft: use_dora is {use_dora!r}; use true or false.")
    return AdapterSettings(r, alpha, use_dora, _targets(stated.get("target_modules", AUTO_TARGETS)))


def _targets(stated: Any) -> tuple[str, ...] | None:
    if stated == AUTO_TARGETS:
        return None
    names = [stated] if isinstance(stated, str) else stated
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"peft: target_modules is {stated!r}; use auto, or names of layers such as [q_proj, v_proj].")
    return tuple(names)
