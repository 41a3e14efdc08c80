"""Imports the learning rate's schedule: `lr_config` of 0.x or `param_scheduler` of 1.x.

`hf_finetune/training/optimization.py` describes what each library does at a step. Where a recipe cannot do the same, a
remark says how it differs.
"""

from __future__ import annotations

from dataclasses import dataclass

from hf_finetune.mmclassification.section import Draft, Section, shown

_MMCV_WARMUP_RATIO = 0.1  # the defaults of MMCV's LrUpdaterHook and of MMEngine's LinearLR
_LINEAR_START_FACTOR = 1 / 3
_CONSTANT_FACTOR = 1 / 3
_MMCV_WARM_UPS = {"linear": "linear", "constant": "constant", "exp": "exponential"}


@dataclass(frozen=True)
class _Length:
    """How long a run is, in epochs or in iterations; the other is None."""

    epochs: float | None
    iterations: int | None


def import_schedule(config: Section, draft: Draft) -> None:
    """Set num_train_epochs or max_steps, lr_scheduler_type and its figures, and the warm-up.

    Raises:
        UserError: The config states no length, or a schedule without counterpart here.
    """
    length = _import_length(config, draft)
    if "lr_config" in config:
        _import_lr_config(config.section("lr_config"), length, draft)
    else:
        _import_param_schedulers(config.sections("param_scheduler"), length, draft)


def _import_length(config: Section, draft: Draft) -> _Length:
    runner = config.section("runner") or config.section("train_cfg")
    epochs = runner.take("max_epochs", config.take("total_epochs"))
    iterations = runner.take("max_iters")
    for key in ("max_epochs", "max_iters"):
        value = runner.values.get(key)
        if value is not None and (not isinstance(value, (int, float)) or value <= 0):
            raise draft.refusal(runner.at(key), f"is {value!r}; use a number above 0.")
    if epochs:
        draft.settings["num_train_epochs"] = epochs
    elif iterations:
        draft.settings["max_steps"] = iterations
    else:
        raise draft.refusal("runner or train_cfg", "states no max_epochs; this config cannot be trained.")
    runner.skip("type", "by_epoch")
    return _Length(epochs, None if epochs else iterations)


def _set_milestones(draft: Draft, place: str, milestones: list[float], gamma: float) -> None:
    if not all(isinstance(milestone, (int, float)) for milestone in milestones):
        raise draft.refusal(place, f"is {shown(milestones)}; use the epochs of its steps, such as [30, 60].")
    draft.settings |= {"lr_scheduler_type": "multistep", "lr_milestones": milestones, "lr_gamma": gamma}


def _every(step: int, length: _Length) -> list[float]:
    """Return the milestones of a schedule that drops every `step` epochs."""
    return list(range(step, int(length.epochs or 0), step))


def _set_cosine(draft: Draft, **minimum: float) -> None:
    figures = {key: value for key, value in minimum.items() if value}
    draft.settings["lr_scheduler_type"] = "cosine_with_min_lr" if figures else "cosine"
    if figures:
        draft.settings["lr_scheduler_kwargs"] = figures


# ---- 0.x ----


def _import_lr_config(lr: Section, length: _Length, draft: Draft) -> None:
    policy = lr.take("policy")
    by_epoch = lr.take("by_epoch", True) and length.epochs is not None
    _import_mmcv_warmup(lr, length, draft)
    if policy in ("step", "Step"):
        step, gamma = lr.take("step"), lr.number("gamma", 0.1)
        if lr.take("by_epoch", True) is False:
            raise draft.refusal(lr.at("by_epoch"), "is False for steps; state them in epochs.")
        milestones = _every(step, length) if isinstance(step, int) else list(step or [None])
        _set_milestones(draft, lr.at("step"), milestones, gamma)
        if lr.take("min_lr") is not None:
            draft.remark(lr.at("min_lr"), f"{lr.take('min_lr')}; multistep falls below it here")
        return
    if policy in ("CosineAnnealing", "cosine", "CosineAnnealingCooldown"):
        _set_cosine(draft, min_lr=lr.number("min_lr", 0), min_lr_rate=lr.number("min_lr_ratio", 0))
        if policy == "CosineAnnealingCooldown":
            words = f"the last {lr.take('cool_down_time')} epochs at {lr.number('cool_down_ratio', 0.1):g} of min_lr"
            draft.remark(lr.at("policy"), f"{policy}: {words}; here the cosine lasts to the end")
    elif policy in ("poly", "Poly"):
        kwargs = {"power": lr.number("power", 1.0), "lr_end": lr.number("min_lr", 0.0)}
        draft.settings |= {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": kwargs}
    elif policy in ("fixed", "Fixed", None):
        draft.settings["lr_scheduler_type"] = "constant"
        return
    else:
        raise draft.refusal(
            lr.at("policy"), f"is {policy!r}; the policies known here are step, CosineAnnealing, poly and fixed."
        )
    if by_epoch:
        draft.settings["lr_by_epoch"] = True


def _import_mmcv_warmup(lr: Section, length: _Length, draft: Draft) -> None:
    """Set the warm-up of MMCV: a factor on the schedule, from warmup_ratio at step 0 to 1 at step warmup_iters."""
    kind, count = lr.take("warmup"), lr.number("warmup_iters", 0)
    ratio, by_epoch = lr.number("warmup_ratio", _MMCV_WARMUP_RATIO), lr.take("warmup_by_epoch", False)
    if kind is None or not count:
        return
    if kind not in _MMCV_WARM_UPS:
        raise draft.refusal(lr.at("warmup"), f"is {kind!r}; the warm-ups known are linear, constant and exp.")
    if kind != "linear":
        draft.settings["warmup_type"] = _MMCV_WARM_UPS[kind]
    draft.settings |= {
        "warmup_epochs" if by_epoch else "warmup_steps": count,
        "warmup_start_factor": ratio,
        "warmup_multiplies": True,
    }


# ---- 1.x ----


def _import_param_schedulers(schedulers: list[Section], length: _Length, draft: Draft) -> None:
    main: Section | None = None
    warm_up: Section | None = None
    for scheduler in schedulers:
        kind = scheduler.values.get("type")
        if kind in ("CosineAnnealingParamScheduler", "CosineAnnealingWeightDecay") or scheduler.values.get(
            "param_name", "lr"
        ) not in ("lr", None):
            draft.remark(scheduler.place, "changes the weight decay during the run; here it is constant")
            scheduler.skip_all()
        elif kind in ("LinearLR", "ConstantLR") and scheduler.values.get("end") is not None and warm_up is None:
            warm_up = scheduler
        elif main is None:
            main = scheduler
        else:
            draft.remark(scheduler.place, "is a third schedule, which is left out")
            scheduler.skip_all()
    warmed = _import_warm_up(warm_up, length, draft) if warm_up is not None else 0.0
    if main is None:
        draft.settings["lr_scheduler_type"] = "constant"
    else:
        _import_main(main, warmed, length, draft)


def _counted_in_epochs(scheduler: Section, length: _Length) -> bool:
    return bool(scheduler.take("by_epoch", True)) and length.epochs is not None


def _import_warm_up(scheduler: Section, length: _Length, draft: Draft) -> float:
    """Set the warm-up of MMEngine, LinearLR or ConstantLR, and return its end in epochs or iterations."""
    kind, in_epochs = scheduler.take("type"), _counted_in_epochs(scheduler, length)
    end, begin = scheduler.number("end", 0), scheduler.number("begin", 0)
    between_epochs = in_epochs and not scheduler.take("convert_to_iter_based", False)
    if kind == "ConstantLR":
        factor = scheduler.number("factor", _CONSTANT_FACTOR)
        if begin > 0:  # T2T-ViT's last epochs
            draft.remark(
                scheduler.place, f"at {factor:g} of the rate from {begin:g} to {end:g}; here the schedule continues"
            )
            return 0.0
        draft.settings["warmup_type"] = "constant"
    else:
        factor = scheduler.number("start_factor", _LINEAR_START_FACTOR)
        if scheduler.number("end_factor", 1.0) != 1:
            draft.remark(
                scheduler.at("end_factor"), f"{scheduler.take('end_factor')}; the warm-up here ends at the whole rate"
            )
        if begin > 0:
            draft.remark(scheduler.at("begin"), f"{begin:g}; the warm-up here begins with the run")
    if between_epochs:
        draft.settings["warmup_between_epochs"] = True
        if end < 2:
            draft.remark(
                scheduler.place, f"stays at {factor:g} of the rate there, having no second epoch; here only until {end}"
            )
    draft.settings |= {"warmup_epochs" if in_epochs else "warmup_steps": end, "warmup_start_factor": factor}
    return end


def _set_decay(scheduler: Section, period: float, in_epochs: bool, draft: Draft) -> None:
    if in_epochs:
        draft.settings["lr_decay_epochs"] = period
    else:
        draft.remark(scheduler.place, f"ends after {period:g} iterations of its own; here it ends with the run")


def _import_main(scheduler: Section, warmed: float, length: _Length, draft: Draft) -> None:
    kind = scheduler.take("type")
    in_epochs = _counted_in_epochs(scheduler, length)
    between_epochs = in_epochs and not scheduler.take("convert_to_iter_based", False)
    total = length.epochs if in_epochs else length.iterations
    begin, end = scheduler.number("begin", 0), scheduler.take("end", total)
    if kind in ("MultiStepLR", "StepLR"):
        if not in_epochs:
            raise draft.refusal(scheduler.at("by_epoch"), "is False for steps; state them in epochs.")
        gamma = scheduler.number("gamma", 0.1)
        milestones = scheduler.take("milestones") or _every(int(scheduler.number("step_size", 1)), length)
        # MMEngine counts milestones from the schedule's begin.
        _set_milestones(draft, scheduler.at("milestones"), [begin + milestone for milestone in milestones], gamma)
        return
    if kind == "CosineAnnealingLR":
        minimum, ratio = scheduler.number("eta_min", 0.0), scheduler.number("eta_min_ratio", 0.0)
        _set_cosine(draft, min_lr=minimum, min_lr_rate=ratio)
        period = scheduler.take("T_max") or ((end or 0) - begin)
        if total is not None and begin + period != total:
            _set_decay(scheduler, period, in_epochs, draft)
            if begin + period < total:
                after = "rises again" if end > begin + period else "stays a step short of its end"
                draft.remark(
                    scheduler.place,
                    f"a cosine of {period:g} from {begin:g} in a run of {total:g} {after}; here it stays at its end",
                )
    elif kind == "PolyLR":
        kwargs = {"power": scheduler.number("power", 1.0), "lr_end": scheduler.number("eta_min", 0.0)}
        # MMEngine divides by one step, or epoch, less than there are.
        draft.settings |= {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": kwargs, "lr_reaches_end": True}
        if total is not None and end != total:
            _set_decay(scheduler, end - begin, in_epochs, draft)
    elif kind == "ConstantLR" or kind == "LinearLR":
        raise draft.refusal(scheduler.place, "has no end and is no warm-up; use the epoch at which it ends.")
    else:
        raise draft.refusal(
            scheduler.at("type"),
            f"is {kind}; the schedules known here are MultiStepLR, StepLR, CosineAnnealingLR and PolyLR.",
        )
    if between_epochs:
        draft.settings["lr_by_epoch"] = True
    if warmed and begin == 0:
        draft.settings["warmup_multiplies"] = True
        unit = "epoch" if "warmup_between_epochs" in draft.settings else "step"
        draft.remark(
            scheduler.place,
            f"runs below the warm-up, whose last {unit} here is the one after it: at most one {unit} apart",
        )
    elif begin != warmed:
        draft.remark(
            scheduler.at("begin"),
            f"{begin:g}, but the warm-up ends at {warmed:g}; here it begins with the warm-up's end",
        )
