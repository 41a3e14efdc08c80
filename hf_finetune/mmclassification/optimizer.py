"""Imports the optimizer, parameter-wise options, gradient clipping and accumulation, and half precision."""

from __future__ import annotations

from typing import Any

from hf_finetune.mmclassification.section import Draft, Section

# Optimizers that Transformers lacks: the one that takes their place, and what the remark says of it.
_STAND_INS = {
    "Adam": ("adamw_torch", "AdamW, which decays weights apart from the gradient, is taken"),
    "NAdam": ("adamw_torch", "AdamW is taken"),
    "RAdam": ("adamw_torch", "AdamW is taken"),
    "Adan": ("adamw_torch", "AdamW is taken; choose learning_rate anew"),
    "Lamb": ("adamw_torch", "AdamW is taken; choose learning_rate anew"),
    "LARS": ("sgd", "SGD is taken; choose learning_rate anew"),
    "Lion": ("lion_32bit", "lion_32bit is taken, which needs bitsandbytes"),
}
_ADAM_DEFAULTS = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
_WRAPPERS = ("OptimWrapper", "AmpOptimWrapper", "ApexOptimWrapper", "DeepSpeedOptimWrapper")
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


def import_optimizer(config: Section, draft: Draft) -> None:
    """Set optim and its figures, max_grad_norm, and fp16 or bf16; multiply global_batch_size by the accumulation.

    Raises:
        UserError: The config has no optimizer, or one without counterpart here.
    """
    wrapper = config.section("optim_wrapper")
    old = not wrapper
    optimizer = config.section("optimizer") if old else wrapper.section("optimizer")
    if not optimizer:
        raise draft.refusal("optimizer" if old else "optim_wrapper", "is missing; this config cannot be trained.")
    _import_figures(optimizer, draft)
    constructor = optimizer if old else wrapper
    paramwise = constructor.section("paramwise_cfg")
    _import_paramwise(paramwise, draft)
    if constructor.take("constructor") not in (None, "DefaultOptimizerConstructor"):
        reason = "is not supported; all layers have one learning rate"
        draft.remark(constructor.at("constructor"), f"{constructor.take('constructor')} {reason}")
    hook = config.section("optimizer_config") if old else wrapper
    clip = hook.section("grad_clip" if old else "clip_grad")
    draft.settings["max_grad_norm"] = clip.number("max_norm", 0)
    if clip.take("norm_type", 2) != 2:
        draft.remark(clip.at("norm_type"), f"{clip.take('norm_type')}; gradients are clipped by their 2-norm here")
    _import_accumulation(hook, "cumulative_iters" if old else "accumulative_counts", draft)
    _import_precision(config, hook, old, draft)


def _import_figures(optimizer: Section, draft: Draft) -> None:
    kind = optimizer.take("type")
    settings = draft.settings
    if kind in _STAND_INS:
        settings["optim"], reason = _STAND_INS[kind]
        if not (kind == "Adam" and not optimizer.number("weight_decay", 0)):
            draft.remark(optimizer.at("type"), f"{kind} is not supported; {reason}")
    elif kind in ("SGD", "AdamW", "RMSprop"):
        settings["optim"] = {"SGD": "sgd", "AdamW": "adamw_torch", "RMSprop": "rmsprop"}[kind]
    else:
        raise draft.refusal(optimizer.at("type"), f"is {kind!r}, which is not supported; use SGD or AdamW.")
    if "lr" not in optimizer:
        raise draft.refusal(optimizer.at("lr"), "is missing; set it to the learning rate.")
    settings["learning_rate"] = optimizer.number("lr", 0.01)
    if settings["optim"] == "sgd":
        settings["momentum"] = optimizer.number("momentum", 0)
        if optimizer.take("nesterov"):
            settings["nesterov"] = True
        if optimizer.number("dampening", 0):
            draft.remark(optimizer.at("dampening"), f"{optimizer.take('dampening')}; dampening is not supported")
    settings["weight_decay"] = optimizer.number("weight_decay", 0.01 if kind == "AdamW" else 0)
    betas = optimizer.take("betas") or (0.9, 0.999)
    figures = {"adam_beta1": betas[0], "adam_beta2": betas[1], "adam_epsilon": optimizer.number("eps", 1e-8)}
    if settings["optim"] == "adamw_torch":
        settings.update({key: value for key, value in figures.items() if value != _ADAM_DEFAULTS[key]})
    elif kind == "RMSprop":
        figures = {key: optimizer.take(key) for key in ("alpha", "momentum", "eps") if optimizer.take(key) is not None}
        if figures:
            settings["optim_args"] = ",".join(f"{key}={value}" for key, value in figures.items())


def _import_paramwise(paramwise: Section, draft: Draft) -> None:
    norm, bias = paramwise.number("norm_decay_mult", 1.0), paramwise.number("bias_decay_mult", 1.0)
    if (norm, bias) == (0, 0):
        draft.settings["decay_norm_and_bias"] = False
    elif (norm, bias) != (1, 1):
        words = f"norm_decay_mult {norm:g} and bias_decay_mult {bias:g}"
        draft.remark(paramwise.place, f"{words}; here norms and biases are decayed both or neither, and both are")
    paramwise.skip("flat_decay_mult" if norm == bias else "bypass_duplicate", "bypass_duplicate", "_delete")
    here = _NAMES_HERE.get(draft.settings.get("model_type", ""), {})
    custom = paramwise.section("custom_keys")
    no_decay: list[str] = []
    for key, options in custom.values.items():
        name = key.rsplit(".", 1)[-1]
        custom.take(key)
        undecayed = isinstance(options, dict) and set(options) == {"decay_mult"} and options["decay_mult"] == 0
        covered = draft.settings.get("decay_norm_and_bias") is False and name in _OF_ONE_DIMENSION
        absent = name in _TRANSFORMERS_ALONE and name not in here
        if undecayed and name in here and not covered:
            no_decay.append(here[name])
        elif not (undecayed and (absent or covered)):
            draft.remark(custom.at(key), f"{_words(options)}; single parameters have no options of their own here")
    if no_decay:
        draft.settings["no_decay"] = no_decay
    if paramwise.take("layer_decay_rate"):
        rate = paramwise.take("layer_decay_rate")
        draft.remark(paramwise.at("layer_decay_rate"), f"{rate:g}; all layers have one learning rate")


def _words(options: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) if isinstance(options, dict) else str(options)


def _import_accumulation(hook: Section, key: str, draft: Draft) -> None:
    steps = int(hook.number(key, 1))
    if steps > 1:
        draft.settings["global_batch_size"] *= steps


def _import_precision(config: Section, hook: Section, old: bool, draft: Draft) -> None:
    fp16, kind = config.take("fp16"), hook.take("type")
    scale = fp16.get("loss_scale") if isinstance(fp16, dict) else hook.take("loss_scale")
    if fp16 or kind == "AmpOptimWrapper" or kind == "Fp16OptimizerHook":
        draft.settings["bf16" if hook.take("dtype") == "bfloat16" else "fp16"] = True
        if isinstance(scale, (int, float)):
            draft.remark(
                "fp16.loss_scale" if fp16 else hook.at("loss_scale"), f"{scale:g}; the loss scale is dynamic here"
            )
    elif not old and kind == "DeepSpeedOptimWrapper":
        draft.remark(hook.at("type"), f"{kind}; set deepspeed: FILE with its settings")
    elif not old and kind is not None and kind not in _WRAPPERS:
        draft.remark(hook.at("type"), f"{kind} is not supported")
    hook.skip("grad_clip", "use_fp16", "distributed", "coalesce", "bucket_size_mb")
