"""Imports options of single parameters, `paramwise_cfg`: learning rates and weight decays by kind, name and depth."""

from __future__ import annotations

from typing import Any

from hf_finetune.mmclassification.section import Draft, Section

# The parameters of `custom_keys` by their names in the networks here, which have no others of them.
_NAMES_HERE = {
    "vit": {"cls_token": "cls_token", "pos_embed": "position_embeddings"},
    "swin": {
        "absolute_pos_embed": "position_embeddings",
        "relative_position_bias_table": "relative_position_bias_table",
    },
    "timm_wrapper": {
        name: name
        for name in (
            *("attention_biases", "cls_token", "gamma", "pos_embed", "q_bias", "rel_pos_h", "rel_pos_w"),
            *("relative_position_bias_table", "v_bias"),
        )
    },
}
# Layers and parameters of one dimension, which `decay_norm_and_bias` covers.
_OF_ONE_DIMENSION = ("bias", "bn", "gamma", "ln", "norm", "q_bias", "v_bias")
_TRANSFORMERS_ALONE = ("absolute_pos_embed", "cls_token", "pos_embed", "relative_position_bias_table")
# What precedes the names of a backbone in Transformers. The norms of these networks have `norm` in their names.
_PREFIXES = {name: name for name in ("resnet", "vit", "swin", "swinv2", "convnext", "convnextv2")}
# Families whose depths MMPretrain counts by block, as here, and by groups of three blocks.
_BY_BLOCK, _BY_THREE = ("vit", "swin", "swinv2", "timm_wrapper"), ("convnext", "convnextv2")
_OPTIONS = ("lr_mult", "decay_mult")

Groups = dict[str, dict[str, float]]


def import_paramwise(paramwise: Section, draft: Draft) -> None:
    """Set decay_norm_and_bias, no_decay, param_groups, head_lr_multiplier and layer_decay; remark on all else."""
    groups: Groups = {}
    _import_kinds(paramwise, groups, draft)
    _import_custom_keys(paramwise.section("custom_keys"), groups, draft)
    if groups:
        draft.settings["param_groups"] = groups
    _import_layer_decay(paramwise, draft)


def _family(draft: Draft) -> str:
    """Return the model_type; a placeholder of a plain ResNet has become the Hub's checkpoint."""
    return str(draft.settings.get("model_type", "resnet" if "model_name_or_path" in draft.settings else ""))


def _import_kinds(paramwise: Section, groups: Groups, draft: Draft) -> None:
    """Import the options of norms and of biases; those of a norm's bias are the norm's, as in MMEngine."""
    norm, bias = paramwise.number("norm_decay_mult", 1.0), paramwise.number("bias_decay_mult", 1.0)
    bias_rate = paramwise.number("bias_lr_mult", 1.0)
    paramwise.skip("flat_decay_mult" if norm == bias else "bypass_duplicate", "bypass_duplicate", "_delete")
    if (norm, bias) == (0, 0):
        draft.settings["decay_norm_and_bias"] = False
    by_decay = (norm, bias) not in ((0, 0), (1, 1))
    if not by_decay and bias_rate == 1:
        return
    if _family(draft) not in _PREFIXES:
        words = [f"norm_decay_mult {norm:g} and bias_decay_mult {bias:g}"] if by_decay else []
        words += [f"bias_lr_mult {bias_rate:g}"] if bias_rate != 1 else []
        reason = "which parameters are norms is not known here; use param_groups"
        draft.remark(paramwise.place, f"{', '.join(words)}; {reason}")
        return
    decay = draft.settings["weight_decay"]
    if by_decay:
        groups |= {"*norm*": {"weight_decay": decay * norm}, "*norm*.bias": {"weight_decay": decay * norm}}
        groups["*.bias"] = {"weight_decay": decay * bias}
    if bias_rate != 1:
        groups.setdefault("*.bias", {})["lr_multiplier"] = bias_rate
        groups.setdefault("*norm*.bias", {}).setdefault("lr_multiplier", 1.0)


def _import_custom_keys(custom: Section, groups: Groups, draft: Draft) -> None:
    here = _NAMES_HERE.get(_family(draft), {})
    no_decay: list[str] = []
    by_kind = bool(groups)  # MMEngine's custom keys come before kinds, the longest pattern comes first here
    for key, options in custom.values.items():
        name = key.rsplit(".", 1)[-1]
        custom.take(key)
        undecayed = isinstance(options, dict) and set(options) == {"decay_mult"} and options["decay_mult"] == 0
        covered = draft.settings.get("decay_norm_and_bias") is False and name in _OF_ONE_DIMENSION
        absent = name in _TRANSFORMERS_ALONE and name not in here
        if undecayed and name in here and not covered:
            no_decay.append(here[name])
        elif undecayed and (absent or covered):
            continue
        elif not (_is_known(options) and _import_options(key.strip("."), options, groups, by_kind, draft)):
            reason = "its parameters have other names here; use param_groups"
            draft.remark(custom.at(key), f"{_words(options)}; {reason}")
    if no_decay:
        draft.settings["no_decay"] = no_decay


def _is_known(options: Any) -> bool:
    return isinstance(options, dict) and all(
        name in _OPTIONS and isinstance(value, (int, float)) for name, value in options.items()
    )


def _import_options(key: str, options: dict[str, float], groups: Groups, by_kind: bool, draft: Draft) -> bool:
    """Set the options of a key whose name has a counterpart here; return whether it has."""
    family = _family(draft)
    prefix, stage = _PREFIXES.get(family), key.removeprefix("backbone.").removeprefix("layer")
    if key in ("head", "head.fc") and set(options) == {"lr_mult"}:
        draft.settings["head_lr_multiplier"] = options["lr_mult"]
        return True
    name = _NAMES_HERE.get(family, {}).get(key.rsplit(".", 1)[-1])
    if name is not None:
        pattern = f"*{name}*"
    elif key == "bias" and not by_kind:
        pattern = "*.bias"
    elif prefix is None or by_kind:
        return False
    elif key in ("norm", "ln"):
        pattern = "*norm*"
    elif key == "backbone":
        pattern = f"{prefix}.*"
    elif key in ("head", "head.fc"):
        pattern = "classifier*"
    elif family == "resnet" and stage in ("1", "2", "3", "4"):
        pattern = f"resnet.encoder.stages.{int(stage) - 1}.*"
    else:
        return False
    decay = {"weight_decay": draft.settings["weight_decay"] * options["decay_mult"]} if "decay_mult" in options else {}
    rate = {"lr_multiplier": options["lr_mult"]} if "lr_mult" in options else {}
    groups[pattern] = rate | decay
    return True


def _import_layer_decay(paramwise: Section, draft: Draft) -> None:
    name = "decay_rate" if "decay_rate" in paramwise else "layer_decay_rate"
    rate, family = paramwise.number(name, 1.0), _family(draft)
    if rate == 1:
        return
    if family in (*_BY_BLOCK, *_BY_THREE):
        draft.settings["layer_decay"] = rate
    if family in _BY_THREE:
        draft.remark(paramwise.at(name), f"{rate:g}; it falls from block to block here, not every three blocks")
    if family not in (*_BY_BLOCK, *_BY_THREE):
        draft.remark(paramwise.at(name), f"{rate:g}; MMPretrain has no depths for this network and ignores it")


def _words(options: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) if isinstance(options, dict) else str(options)
