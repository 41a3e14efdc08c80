"""Imports the optimizer, gradient clipping and accumulation, and half precision."""

from __future__ import annotations

from hf_finetune.mmclassification.paramwise import import_paramwise
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
_CONSTRUCTORS = (
    "DefaultOptimizerConstructor",
    "DefaultOptimWrapperConstructor",
    "LearningRateDecayOptimWrapperConstructor",
)
_WRAPPERS = ("OptimWrapper", "AmpOptimWrapper", "ApexOptimWrapper", "DeepSpeedOptimWrapper")


def import_optimizer(config: Section, draft: Draft) -> None:
    """Set optim and its figures, max_grad_norm and precision; multiply global_batch_size by the accumulation.

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
    import_paramwise(paramwise, draft)
    if constructor.take("constructor") not in (None, *_CONSTRUCTORS):
        draft.remark(constructor.at("constructor"), f"{constructor.take('constructor')} is not supported")
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


def _import_accumulation(hook: Section, key: str, draft: Draft) -> None:
    steps = int(hook.number(key, 1))
    if steps > 1:
        draft.settings["global_batch_size"] *= steps


def _import_precision(config: Section, hook: Section, old: bool, draft: Draft) -> None:
    fp16, kind = config.take("fp16"), hook.take("type")
    scale = fp16.get("loss_scale") if isinstance(fp16, dict) else hook.take("loss_scale")
    draft.settings["precision"] = "float32"  # as there, whatever this machine is fast in
    if fp16 or kind == "AmpOptimWrapper" or kind == "Fp16OptimizerHook":
        draft.settings["precision"] = "bf16" if hook.take("dtype") == "bfloat16" else "fp16"
        if isinstance(scale, (int, float)):
            draft.remark(
                "fp16.loss_scale" if fp16 else hook.at("loss_scale"), f"{scale:g}; the loss scale is dynamic here"
            )
    elif not old and kind == "DeepSpeedOptimWrapper":
        draft.remark(hook.at("type"), f"{kind}; set deepspeed: FILE with its settings")
    elif not old and kind is not None and kind not in _WRAPPERS:
        draft.remark(hook.at("type"), f"{kind} is not supported")
    hook.skip("grad_clip", "use_fp16", "distributed", "coalesce", "bucket_size_mb")
