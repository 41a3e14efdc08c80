"""Batches, optimizers and runtime of configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.mm_configs import (
    RESNET,
    imported,
    new_config,
    old_config,
    remarks,
    settings,
)

BATCHES = [
    ("net_8xb32_in1k.py", 256, ""),
    ("net_b32x8_imagenet.py", 256, ""),
    ("net_16x32_b16x32_imagenet.py", 512, ""),
    ("net_8xb64_in1k.py", 256, "the file's name says 8xb64; 8 GPUs of 32 are taken"),
    ("net.py", 256, "32 on an unknown number of GPUs; 8 are taken"),
]


@pytest.mark.parametrize(("name", "batch", "remark"), BATCHES)
def test_the_batch_is_samples_times_gpus(tmp_path: Path, name: str, batch: int, remark: str) -> None:
    draft = imported(tmp_path, old_config(), name)
    assert draft.settings["global_batch_size"] == batch and remark in remarks(draft)
    assert bool(remark) == bool(draft.remarks)


def test_the_batch_of_1x_is_stated_and_accumulation_multiplies(tmp_path: Path) -> None:
    scaled = new_config(auto_scale_lr=dict(base_batch_size=4096))
    assert settings(tmp_path, scaled, "net.py")["global_batch_size"] == 4096
    assert "4096, but the file's name says 8xb32" in remarks(imported(tmp_path, scaled))
    wrapper = dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=4)
    assert settings(tmp_path, new_config(optim_wrapper=wrapper))["global_batch_size"] == 1024
    hook = dict(type="GradientCumulativeOptimizerHook", cumulative_iters=2)
    assert settings(tmp_path, old_config(optimizer_config=hook))["global_batch_size"] == 512


# Optimizer

OPTIMIZERS = [
    (dict(type="SGD", lr=0.1), dict(optim="sgd", momentum=0, weight_decay=0), ""),
    (dict(type="SGD", lr=0.1, momentum=0.9, nesterov=True), dict(momentum=0.9, nesterov=True), ""),
    (dict(type="AdamW", lr=0.1), dict(optim="adamw_torch", weight_decay=0.01), ""),
    (dict(type="AdamW", lr=0.1, betas=(0.9, 0.95), eps=1e-6), dict(adam_beta2=0.95, adam_epsilon=1e-6), ""),
    (dict(type="Adam", lr=0.1), dict(optim="adamw_torch", weight_decay=0), ""),
    (dict(type="Adam", lr=0.1, weight_decay=0.1), dict(optim="adamw_torch"), "Adam is not supported"),
    (dict(type="RMSprop", lr=0.1, alpha=0.9, momentum=0.8), dict(optim_args="alpha=0.9,momentum=0.8"), ""),
    (dict(type="Lamb", lr=0.1), dict(optim="adamw_torch"), "choose learning_rate anew"),
    (dict(type="LARS", lr=0.1, momentum=0.9), dict(optim="sgd", momentum=0.9), "choose learning_rate anew"),
]


@pytest.mark.parametrize(("optimizer", "expected", "remark"), OPTIMIZERS, ids=lambda value: str(value)[:60])
def test_the_optimizer(tmp_path: Path, optimizer: dict, expected: dict, remark: str) -> None:
    draft = imported(tmp_path, old_config(optimizer=optimizer))
    assert {key: draft.settings.get(key) for key in expected} == expected
    assert draft.settings["learning_rate"] == 0.1
    assert remark in remarks(draft) and bool(remark) == bool(draft.remarks)


def test_parameterwise_options(tmp_path: Path) -> None:
    def wrapped(**paramwise: Any) -> Any:
        optimizer = dict(type="AdamW", lr=0.1)
        return imported(tmp_path, new_config(optim_wrapper=dict(optimizer=optimizer, paramwise_cfg=paramwise)))

    plain = wrapped(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
    assert plain.settings["decay_norm_and_bias"] is False and not plain.remarks
    absent = wrapped(custom_keys={".cls_token": dict(decay_mult=0.0)})  # a ResNet has none
    assert "decay_norm_and_bias" not in absent.settings and not absent.remarks
    for paramwise, remark in (
        (dict(custom_keys={"backbone.conv1": dict(lr_mult=10)}), "lr_mult 10; its parameters have other names here"),
        (dict(custom_keys={"head": dict(momentum=1)}), "momentum 1; its parameters have other names here"),
        (dict(layer_decay_rate=0.65), "0.65; MMPretrain has no depths for this network and ignores it"),
    ):
        assert remark in remarks(wrapped(**paramwise))
    for paramwise, expected in (
        (dict(norm_decay_mult=0), {"*norm*": {"weight_decay": 0.0}, "*.bias": {"weight_decay": 0.01}}),
        (dict(custom_keys={".bias": dict(decay_mult=0)}), {"*.bias": {"weight_decay": 0.0}}),
        (dict(bias_lr_mult=2), {"*.bias": {"lr_multiplier": 2}, "*norm*.bias": {"lr_multiplier": 1.0}}),
        (
            dict(custom_keys={"backbone.layer1": dict(lr_mult=0.1), "backbone": dict(decay_mult=0.5)}),
            {"resnet.encoder.stages.0.*": {"lr_multiplier": 0.1}, "resnet.*": {"weight_decay": 0.005}},
        ),
    ):
        draft = wrapped(**paramwise)
        assert expected.items() <= draft.settings["param_groups"].items() and not draft.remarks
    assert wrapped(custom_keys={"head": dict(lr_mult=10)}).settings["head_lr_multiplier"] == 10


def test_rates_by_depth(tmp_path: Path) -> None:
    wrapper = dict(
        optimizer=dict(type="AdamW", lr=0.1),
        constructor="LearningRateDecayOptimWrapperConstructor",
        paramwise_cfg=dict(layer_decay_rate=0.65),
    )
    for backbone, remark in (
        (dict(type="VisionTransformer", arch="b"), ""),
        (dict(type="ConvNeXt", arch="tiny"), "it falls from block to block here, not every three blocks"),
    ):
        draft = imported(tmp_path, new_config(model={**RESNET, "backbone": backbone}, optim_wrapper=wrapper))
        assert draft.settings["layer_decay"] == 0.65
        assert remark in remarks(draft) and "constructor" not in remarks(draft)


def test_parameters_that_are_not_decayed_go_by_their_names_here(tmp_path: Path) -> None:
    names = ("cls_token", ".pos_embed", ".absolute_pos_embed", ".relative_position_bias_table", ".ln", ".bias")
    keys = {name: dict(decay_mult=0.0) for name in names}
    paramwise = dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys=keys)
    optimizer = dict(type="AdamW", lr=0.1)
    for backbone, expected in (
        (dict(type="VisionTransformer", arch="b"), ["cls_token", "position_embeddings"]),
        (dict(type="SwinTransformer", arch="tiny"), ["position_embeddings", "relative_position_bias_table"]),
        (dict(type="ResNet", depth=50), None),
    ):
        model = {**RESNET, "backbone": backbone}
        config = new_config(model=model, optim_wrapper=dict(optimizer=optimizer, paramwise_cfg=paramwise))
        draft = imported(tmp_path, config)
        assert draft.settings.get("no_decay") == expected
        assert "decay_mult" not in remarks(draft)


def test_an_average_of_the_weights(tmp_path: Path) -> None:
    draft = imported(tmp_path, new_config(custom_hooks=[dict(type="EMAHook", momentum=4e-5, priority="HIGH")]))
    assert draft.settings["ema_decay"] == 0.99996 and not draft.remarks
    hook = dict(type="EMAHook", ema_type="ExpMomentumEMA", update_buffers=True, begin_epoch=3)
    draft = imported(tmp_path, new_config(custom_hooks=[hook]))
    assert draft.settings["ema_decay"] == 0.9998
    for remark in ("ema_type: ExpMomentumEMA;", "update_buffers: True;", "begin_epoch: 3;"):
        assert remark in remarks(draft)


def test_clipping_and_half_precision(tmp_path: Path) -> None:
    assert settings(tmp_path, old_config())["max_grad_norm"] == 0
    assert settings(tmp_path, old_config(optimizer_config=dict(grad_clip=dict(max_norm=5.0))))["max_grad_norm"] == 5.0
    sgd = dict(type="SGD", lr=0.1)
    amp = dict(type="AmpOptimWrapper", optimizer=sgd, clip_grad=dict(max_norm=1.0), loss_scale="dynamic")
    values = settings(tmp_path, new_config(optim_wrapper=amp))
    assert values["precision"] == "fp16" and values["max_grad_norm"] == 1.0
    assert settings(tmp_path, new_config(optim_wrapper={**amp, "dtype": "bfloat16"}))["precision"] == "bf16"
    assert settings(tmp_path, old_config())["precision"] == "float32"
    draft = imported(tmp_path, old_config(fp16=dict(loss_scale=512.0)))
    assert draft.settings["precision"] == "fp16" and "512; the loss scale is dynamic here" in remarks(draft)


# Runtime


def test_the_runtime(tmp_path: Path) -> None:
    hooks = dict(
        logger=dict(type="LoggerHook", interval=50),
        checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=3),
    )
    values = settings(
        tmp_path,
        new_config(
            default_hooks=hooks,
            randomness=dict(seed=7, deterministic=True),
            work_dir="work/net/",
            vis_backends=[dict(type="TensorboardVisBackend")],
            find_unused_parameters=True,
        ),
    )
    expected = dict(
        logging_steps=50,
        save_total_limit=3,
        seed=7,
        full_determinism=True,
        output_dir="work/net",
        report_to=["tensorboard"],
        ddp_find_unused_parameters=True,
    )
    assert {key: values[key] for key in expected} == expected
    assert settings(tmp_path, old_config(seed=3))["seed"] == 3


def test_intervals_and_hooks_are_told(tmp_path: Path) -> None:
    draft = imported(
        tmp_path,
        old_config(
            evaluation=dict(interval=10),
            checkpoint_config=dict(interval=5),
            custom_hooks=[dict(type="PreciseBNHook"), dict(type="MyHook")],
        ),
    )
    lines = remarks(draft).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("evaluation.interval: 10;") and lines[1].startswith("checkpoint_config.interval: 5;")
    assert "BatchNorm keeps its running statistics" in lines[2] and "MyHook: is not supported" in lines[3]


def test_a_run_of_iterations_is_evaluated_by_steps(tmp_path: Path) -> None:
    loop = dict(type="IterBasedTrainLoop", max_iters=5000, val_interval=500)
    scheduler = [dict(type="CosineAnnealingLR", by_epoch=False)]
    values = settings(tmp_path, new_config(train_cfg=loop, param_scheduler=scheduler))
    expected = dict(max_steps=5000, eval_strategy="steps", eval_steps=500, save_strategy="steps", save_steps=500)
    assert {key: values[key] for key in expected} == expected
