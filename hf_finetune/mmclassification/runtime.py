"""Imports logging, evaluation, checkpoints, hooks, seeds and the rest of the runtime."""

from __future__ import annotations

from hf_finetune.mmclassification.section import Draft, Section

_HOOK_REASONS = {
    "PreciseBNHook": "BatchNorm keeps its running statistics",
    "SwitchRecipeHook": "transforms and loss stay the same over the whole run",
}
_TRACKERS = {
    "TensorboardLoggerHook": "tensorboard",
    "TensorboardVisBackend": "tensorboard",
    "WandbLoggerHook": "wandb",
    "WandbVisBackend": "wandb",
    "MlflowLoggerHook": "mlflow",
    "MLflowVisBackend": "mlflow",
    "ClearMLVisBackend": "clearml",
}
# Keys that change how a run is started or shown, or its speed, and not its result.
_INVISIBLE = (
    "cudnn_benchmark",
    "default_scope",
    "device",
    "dist_params",
    "env_cfg",
    "gpu_ids",
    "launcher",
    "log_level",
    "log_processor",
    "opencv_num_threads",
    "mp_start_method",
    "runner_type",
    "test_cfg",
    "test_evaluator",
    "val_evaluator",
    "workflow",
)


def import_runtime(config: Section, draft: Draft) -> None:
    """Set logging_steps, the keys of evaluation and saving, ema_decay, seed, output_dir and report_to."""
    config.skip(*_INVISIBLE)
    hooks = config.section("default_hooks")
    logger = hooks.section("logger") if hooks else config.section("log_config")
    if "interval" in logger:
        draft.settings["logging_steps"] = logger.number("interval", 10)
    logger.skip("type", "by_epoch", "ignore_last", "log_metric_by_epoch")
    _import_trackers(config, logger, draft)
    hooks.skip("timer", "param_scheduler", "sampler_seed", "visualization", "ema")
    _import_intervals(config, hooks, draft)
    for hook in config.sections("custom_hooks"):
        kind = hook.take("type")
        if kind == "EMAHook":
            _import_average(hook, draft)
        else:
            draft.remark(hook.place, _HOOK_REASONS.get(str(kind), "is not supported"))
        hook.skip_all()
    randomness = config.section("randomness")
    seed = randomness.take("seed", config.take("seed"))
    if isinstance(seed, int):
        draft.settings["seed"] = seed
    if randomness.take("deterministic") or config.take("deterministic"):
        draft.settings["full_determinism"] = True
    randomness.skip("diff_rank_seed")
    if config.take("find_unused_parameters"):
        draft.settings["ddp_find_unused_parameters"] = True
    if isinstance(config.take("work_dir"), str):
        draft.settings["output_dir"] = config.take("work_dir").rstrip("/")
    for key, reason in {
        "custom_imports": "code of your own is not run",
        "resume": "an interrupted run of this package resumes from its own checkpoint",
        "resume_from": "set load_from to start from its weights",
        "strategy": "use accelerate launch with a config of scripts/accelerate/ instead",
        "compile": "set torch_compile: true",
        "tta_model": "use hf-finetune evaluate --tta flip",
        "tta_pipeline": "use hf-finetune evaluate --tta flip",
    }.items():
        if config.take(key):
            draft.remark(key, f"not imported; {reason}")


def _import_average(hook: Section, draft: Draft) -> None:
    """Set ema_decay, which has a warm-up of its own; MMCV's is above the usual momenta and has no effect."""
    momentum = hook.number("momentum", 0.0002)
    draft.settings["ema_decay"] = round(1 - momentum, 12)
    if hook.take("ema_type", "ExponentialMovingAverage") != "ExponentialMovingAverage":
        draft.remark(hook.at("ema_type"), f"{hook.take('ema_type')}; here the momentum is the same after a warm-up")
    if hook.take("update_buffers"):
        draft.remark(hook.at("update_buffers"), "True; BatchNorm's statistics are those of the last step here")
    for key, default in (("interval", 1), ("begin_iter", 0), ("begin_epoch", 0), ("evaluate_on_origin", False)):
        if hook.take(key, default) != default:
            draft.remark(hook.at(key), f"{hook.take(key)}; the average is taken from the first step on, at each step")


def _import_trackers(config: Section, logger: Section, draft: Draft) -> None:
    entries = [*logger.sections("hooks"), *config.sections("vis_backends")]
    entries += config.section("visualizer").sections("vis_backends")
    config.section("visualizer").skip_all()
    kinds = [entry.take("type") for entry in entries]
    for entry in entries:
        entry.skip_all()
    trackers = sorted({_TRACKERS[kind] for kind in kinds if kind in _TRACKERS})
    if trackers:
        draft.settings["report_to"] = trackers


def _import_intervals(config: Section, hooks: Section, draft: Draft) -> None:
    """Set evaluation and saving by steps where the config counts them in iterations; otherwise both follow epochs."""
    old = not hooks
    checkpoint = config.section("checkpoint_config") if old else hooks.section("checkpoint")
    if old:
        loop, key = config.section("evaluation"), "interval"
        loop.skip("metric", "metric_options", "save_best", "rule", "by_epoch", "priority", "start")
    else:
        loop, key = config.section("train_cfg"), "val_interval"
    every, saved = loop.number(key, 1), checkpoint.number("interval", 1)
    loop.skip("dynamic_intervals", "val_begin")
    for name in ("type", "by_epoch", "save_best", "rule", "out_dir", "save_optimizer", "save_last", "published_keys"):
        checkpoint.skip(name)
    kept = checkpoint.take("max_keep_ckpts")
    if isinstance(kept, int) and kept > 0:
        draft.settings["save_total_limit"] = kept
    if checkpoint.values.get("by_epoch") is False or "max_steps" in draft.settings:
        steps = int(every if every > 1 else saved)
        if steps > 1:
            draft.settings |= {
                "eval_strategy": "steps",
                "eval_steps": steps,
                "save_strategy": "steps",
                "save_steps": steps,
            }
        return
    if every != 1:
        draft.remark(loop.at(key), f"{every:g}; here each epoch is evaluated, so that the best can be kept")
    if saved != 1:
        draft.remark(
            checkpoint.at("interval"), f"{saved:g}; here each epoch is saved and the best and the last are kept"
        )
