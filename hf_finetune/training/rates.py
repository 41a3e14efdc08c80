"""Learning rates and weight decays that differ from parameter to parameter: by depth, for the head, and by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.models.depth import parameter_depths
from hf_finetune.models.head import head_parameter_names

# What torch.compile, DistributedDataParallel, FSDP and activation checkpointing put into a parameter's name.
_WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


@dataclass(frozen=True)
class Rate:
    """How a parameter is trained.

    Attributes:
        multiplier: Factor on the learning rate of every step.
        weight_decay: Its weight decay; None for what `weight_decay`, `decay_norm_and_bias` and `no_decay` say.
        is_alone_at_first: Whether it is of the head, which `freeze_epochs` trains before the rest. The head has a group
            of its own then: torch's fused SGD fails where a part of a group has no momentum yet.
    """

    multiplier: float
    weight_decay: float | None = None
    is_alone_at_first: bool = False


@dataclass(frozen=True)
class Rates:
    """How each parameter of a network is trained.

    Attributes:
        by_name: By the name of the parameter; empty where one rate serves all.
        report: One line for the log, none where one rate serves all.
    """

    by_name: Mapping[str, Rate]
    report: tuple[str, ...] = ()

    def apply(self, optimizer: Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Divide an optimizer's parameter groups by rate, in place, before its first step and its schedule.

        The group whose rate is nearest to the learning rate comes first, because the log shows that of the first group.

        Args:
            optimizer: The optimizer, whose groups have the learning rate `lr`.
            parameters: The network's parameters with their names, wrapped or not.

        Raises:
            UserError: The optimizer has no one learning rate, or parameters that are not the network's.
        """
        if not self.by_name:
            return
        rates = {id(parameter): self.by_name.get(_WRAPPERS.sub("", name)) for name, parameter in parameters}
        divided: dict[tuple[float, float, bool], dict[str, Any]] = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                rate = rates.get(id(parameter))
                if rate is None or not isinstance(group.get("lr"), (int, float)):
                    raise UserError(
                        f"layer_decay, head_lr_multiplier, param_groups and freeze_epochs do not go with"
                        f" {type(optimizer).__name__},"
                        " which does not keep one learning rate for each of the network's parameters; use another"
                        " --optim, and fsdp_version 2 with FSDP."
                    )
                decay = group.get("weight_decay", 0.0) if rate.weight_decay is None else rate.weight_decay
                own = {**group, "params": [], "lr": group["lr"] * rate.multiplier, "weight_decay": decay}
                divided.setdefault((rate.multiplier, decay, rate.is_alone_at_first), own)["params"].append(parameter)
        order = sorted(divided, key=lambda key: (abs(key[0] - 1), -key[0], -key[1], key[2]))
        optimizer.param_groups = [divided[key] for key in order]


def parameter_rates(model: PreTrainedModel, args: FinetuneArguments) -> Rates:
    """Return the rates that `layer_decay`, `head_lr_multiplier` and `param_groups` ask for; they multiply.

    Args:
        model: The network, before anything wraps it.
        args: The settings.

    Raises:
        UserError: The network has no blocks, or a pattern matches none of its parameters.
    """
    groups: Mapping[str, Mapping[str, float]] = args.param_groups or {}
    differ = args.layer_decay != 1 or args.head_lr_multiplier != 1 or bool(groups)
    if not differ and args.freeze_epochs is None:
        return Rates({})
    names = [name for name, _ in model.named_parameters()]
    head = _head(model, names)
    depths = parameter_depths(model, head)
    deepest = max(depths.values())
    if args.layer_decay != 1 and deepest == 0:
        raise UserError(
            f"layer_decay: {type(model).__name__} has no list of blocks that tells how deep its layers lie; use"
            " --param_groups '{pattern: {lr_multiplier: 0.1}}'."
        )
    chosen = {name: _longest_match(name, groups) for name in names}
    _check_matched(groups, chosen, model)
    rates = {}
    for name, pattern in chosen.items():
        own = groups[pattern] if pattern is not None else {}
        multiplier = args.layer_decay ** (deepest - depths[name]) * own.get("lr_multiplier", 1.0)
        multiplier *= args.head_lr_multiplier if name in head else 1.0
        rates[name] = Rate(multiplier, own.get("weight_decay"), args.freeze_epochs is not None and name in head)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return Rates(rates, (_describe(depths, head, chosen, trained, args),) if differ else ())


def _head(model: PreTrainedModel, names: Sequence[str]) -> set[str]:
    """Return the head's parameters; those of the last layer where the network does not tell its backbone apart."""
    head = head_parameter_names(model)
    return (
        head if len(head) < len(names) else {n for n in names if n.rpartition(".")[0] == names[-1].rpartition(".")[0]}
    )


def _longest_match(name: str, patterns: Iterable[str]) -> str | None:
    """Return the longest pattern that a name matches, the first in the alphabet among equals, as MMEngine does."""
    matching = [pattern for pattern in patterns if _matches(name, pattern)]
    return min(matching, key=lambda pattern: (-len(pattern), pattern)) if matching else None


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _check_matched(patterns: Iterable[str], chosen: Mapping[str, str | None], model: nn.Module) -> None:
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in chosen):
            modules = [name for name, _ in model.named_modules() if name]
            near = did_you_mean(pattern.replace("*", "").strip("."), [*modules, *chosen])
            raise UserError(
                f'param_groups: no parameter is called "{pattern}".{near} Use the name of a parameter or a module, such'
                f" as {modules[1]}, or a pattern such as '*.bias'."
            )


def _describe(
    depths: Mapping[str, int],
    head: set[str],
    chosen: Mapping[str, str | None],
    trained: set[str],
    args: FinetuneArguments,
) -> str:
    """Return the rates of the trained parameters in one line, from the stem to the head, then those by pattern."""
    deepest = max(depths.values())
    parts = []
    if args.layer_decay != 1 or args.head_lr_multiplier != 1:
        by_depth = {
            depth: args.learning_rate * args.layer_decay ** (deepest - depth)
            for depth in sorted({depths[name] for name in trained - head})
        }
        words = [(_place(depth, deepest), f"{rate:.3g}") for depth, rate in by_depth.items()]
        if len(words) > 4:  # the first two and the last two tell the ratio
            words = [*words[:2], ("...", ""), *words[-2:]]
        if args.layer_decay == 1:
            words = [("backbone", f"{args.learning_rate:.3g}")] if words else []
        words += [("head", f"{args.learning_rate * args.head_lr_multiplier:.3g}")] if trained & head else []
        parts.append(", ".join(f"{place} {rate}".strip() for place, rate in words))
    else:
        parts.append(f"{args.learning_rate:.3g}")
    for pattern in dict.fromkeys(pattern for pattern in chosen.values() if pattern is not None):
        names = [name for name in chosen if chosen[name] == pattern]
        own = (args.param_groups or {})[pattern]
        factor = [f"x {own['lr_multiplier']:g}"] if "lr_multiplier" in own else []
        decay = [f"weight decay {own['weight_decay']:g}"] if "weight_decay" in own else []
        frozen = ["all frozen"] if trained.isdisjoint(names) else []
        parts.append(f"{pattern} ({len(names)} parameters) {', '.join([*factor, *decay, *frozen])}")
    return f"Learning rates: {'; '.join(parts)}."


def _place(depth: int, deepest: int) -> str:
    return "stem" if depth == 0 else "last layers" if depth == deepest else f"block {depth}"
