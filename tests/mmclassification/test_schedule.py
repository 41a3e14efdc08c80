"""Imported schedules against MMCV's and MMEngine's rates, step by step."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from hf_finetune.training.extensions.list import Extensions
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.mm_configs import imported, new_config, old_config, remarks

EPOCHS, UPDATES, RATE = 30, 13, 0.4
SCHEDULE_KEYS = ("lr_", "warmup_", "learning_rate", "num_train_epochs", "max_steps")


def our_rates(settings: dict[str, Any], folder: Path, updates: int = UPDATES) -> list[float]:
    """The rates of all steps of a run with these settings, made as the Trainer makes them."""
    keys = {key: value for key, value in settings.items() if key.startswith(SCHEDULE_KEYS)}
    args = FinetuneArguments(output_dir=str(folder), use_cpu=True, report_to=[], **keys)
    steps = args.max_steps if args.max_steps > 0 else int(args.num_train_epochs * updates)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    trainer = SimpleNamespace(
        args=args, optimizer=optimizer, lr_scheduler=None, extensions=Extensions([]), _updates_per_epoch=updates
    )
    schedule = ImageClassificationTrainer.create_scheduler(trainer, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def mmcv_rates(lr: dict[str, Any]) -> list[float]:
    """MMCV 1.x's LrUpdaterHook, after its documentation: a schedule, and below warmup_iters the warm-up times it."""
    warmup = lr.get("warmup_iters", 0) * (UPDATES if lr.get("warmup_by_epoch") else 1)
    rates = []
    for step in range(EPOCHS * UPDATES):
        by_epoch = lr.get("by_epoch", True)
        progress = step // UPDATES / EPOCHS if by_epoch else step / (EPOCHS * UPDATES)
        least = RATE * lr["min_lr_ratio"] if "min_lr_ratio" in lr else lr.get("min_lr", 0)
        if lr["policy"] == "step":
            every = lr["step"]
            passed = step // UPDATES // every if isinstance(every, int) else sum(step // UPDATES >= at for at in every)
            rate = RATE * lr.get("gamma", 0.1) ** passed
        elif lr["policy"] == "CosineAnnealing":
            rate = least + (RATE - least) * (1 + math.cos(math.pi * progress)) / 2
        else:
            rate = least + (RATE - least) * (1 - progress) ** lr.get("power", 1)
        if lr.get("warmup") and step < warmup:
            ratio = lr.get("warmup_ratio", 0.1)
            rate *= {
                "linear": 1 - (1 - step / warmup) * (1 - ratio),
                "constant": ratio,
                "exp": ratio ** (1 - step / warmup),
            }[lr["warmup"]]
        rates.append(rate)
    return rates


WARM_STEPS = dict(warmup="linear", warmup_iters=20, warmup_ratio=0.25)
WARM_EPOCHS = dict(warmup="linear", warmup_iters=5, warmup_ratio=1e-3, warmup_by_epoch=True)
LR_CONFIGS = [
    dict(policy="step", step=[10, 25]),
    dict(policy="step", step=[1, 12, 20], gamma=0.5, **WARM_STEPS),
    dict(policy="step", step=2, gamma=0.97, **WARM_EPOCHS),
    dict(policy="CosineAnnealing", min_lr=0),
    dict(policy="CosineAnnealing", min_lr=0, by_epoch=False),
    dict(policy="CosineAnnealing", min_lr=1e-5, **WARM_EPOCHS),
    dict(policy="CosineAnnealing", min_lr_ratio=1e-2, by_epoch=False, **WARM_EPOCHS),
    dict(policy="CosineAnnealing", min_lr=0, **WARM_STEPS),
    dict(policy="poly", min_lr=1e-4, power=2.0, by_epoch=False, **WARM_STEPS),
    dict(policy="poly", min_lr=0),
    dict(policy="step", step=[10], warmup="constant", warmup_iters=20, warmup_ratio=0.25),
    dict(policy="CosineAnnealing", min_lr=0, warmup="exp", warmup_iters=5, warmup_ratio=1e-2, warmup_by_epoch=True),
]


@pytest.mark.parametrize("lr", LR_CONFIGS, ids=str)
def test_the_rate_is_that_of_0x_at_every_step(tmp_path: Path, lr: dict[str, Any]) -> None:
    optimizer = dict(type="SGD", lr=RATE, momentum=0.9)
    draft = imported(tmp_path, old_config(lr_config=lr, optimizer=optimizer, runner=dict(max_epochs=EPOCHS)))
    assert "lr_config" not in remarks(draft)
    assert our_rates(draft.settings, tmp_path) == pytest.approx(mmcv_rates(lr), rel=1e-9, abs=1e-12)


WARM_UP = dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True)
WARM_UP_STEPS = dict(type="LinearLR", start_factor=0.25, by_epoch=False, begin=0, end=20)
PARAM_SCHEDULERS = {
    "multistep": [dict(type="MultiStepLR", by_epoch=True, milestones=[10, 25], gamma=0.1)],
    "multistep after a warm-up": [WARM_UP, dict(type="MultiStepLR", by_epoch=True, milestones=[10, 25])],
    "step": [dict(type="StepLR", by_epoch=True, step_size=2, gamma=0.973)],
    "cosine by epoch": [dict(type="CosineAnnealingLR", T_max=30, by_epoch=True, begin=0, end=30)],
    "cosine by epoch after a warm-up": [WARM_UP, dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=5)],
    "cosine by step after a warm-up": [
        WARM_UP,
        dict(type="CosineAnnealingLR", T_max=25, by_epoch=True, begin=5, end=30, convert_to_iter_based=True),
    ],
    "warm-up by step": [WARM_UP_STEPS, dict(type="MultiStepLR", by_epoch=True, milestones=[10], gamma=0.5)],
    "warm-up alone": [WARM_UP],
    "warm-up between epochs": [
        dict(type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=5),
        dict(type="CosineAnnealingLR", by_epoch=True, begin=5, end=30),
    ],
    "warm-up that is constant, by step": [
        dict(type="ConstantLR", factor=0.1, by_epoch=False, begin=0, end=50),
        dict(type="MultiStepLR", by_epoch=True, milestones=[10], gamma=0.5),
    ],
    "warm-up that is constant, between epochs": [
        dict(type="ConstantLR", factor=0.1, by_epoch=True, begin=0, end=5),
        dict(type="CosineAnnealingLR", by_epoch=True, begin=5, end=30, convert_to_iter_based=True),
    ],
    "warm-up that is constant, of whole epochs by step": [
        dict(type="ConstantLR", factor=0.1, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
        dict(type="CosineAnnealingLR", by_epoch=True, begin=5, end=30),
    ],
    "poly by step": [dict(type="PolyLR", by_epoch=False, begin=0, eta_min=1e-3, power=0.9)],
    "poly by epoch": [dict(type="PolyLR", by_epoch=True, begin=0, power=2.0)],
    "poly after a warm-up": [WARM_UP, dict(type="PolyLR", by_epoch=True, begin=5, convert_to_iter_based=True)],
    "poly that ends before the run": [WARM_UP, dict(type="PolyLR", by_epoch=True, begin=5, end=20, eta_min=1e-3)],
    "cosine of a period beyond the run": [WARM_UP, dict(type="CosineAnnealingLR", T_max=30, by_epoch=True, begin=5)],
    "cosine by step of a period beyond the run": [
        WARM_UP,
        dict(type="CosineAnnealingLR", T_max=45, eta_min=1e-5, by_epoch=True, begin=5, convert_to_iter_based=True),
    ],
}


def mmengine_rates(schedulers: list[dict[str, Any]]) -> list[float]:
    """The rates that MMEngine's own schedulers set, stepped as its ParamSchedulerHook does."""
    module = pytest.importorskip("mmengine.optim.scheduler")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    built = []
    for scheduler in schedulers:
        arguments = {"end": EPOCHS if scheduler["by_epoch"] else EPOCHS * UPDATES, **scheduler}
        kind = getattr(module, arguments.pop("type"))
        if arguments.pop("convert_to_iter_based", False):
            built.append(kind.build_iter_from_epoch(optimizer, **arguments, epoch_length=UPDATES))
        else:
            built.append(kind(optimizer, **arguments))
    rates = []
    for step in range(1, EPOCHS * UPDATES + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in built:
            if not scheduler.by_epoch or step % UPDATES == 0:
                scheduler.step()
    return rates


@pytest.mark.parametrize("name", PARAM_SCHEDULERS)
def test_the_rate_is_mmengines_at_every_step(tmp_path: Path, name: str) -> None:
    expected = mmengine_rates(PARAM_SCHEDULERS[name])
    assert our_rates(_imported(tmp_path, name).settings, tmp_path) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def _imported(tmp_path: Path, name: str):
    wrapper = dict(optimizer=dict(type="SGD", lr=RATE, momentum=0.9))
    config = new_config(
        param_scheduler=PARAM_SCHEDULERS[name], optim_wrapper=wrapper, train_cfg=dict(by_epoch=True, max_epochs=EPOCHS)
    )
    draft = imported(tmp_path, config)
    assert "param_scheduler" not in remarks(draft)
    return draft


def test_the_points_of_a_warm_up_that_can_be_worked_out_by_hand(tmp_path: Path) -> None:
    rates = our_rates(_imported(tmp_path, "cosine by epoch after a warm-up").settings, tmp_path)
    last = 5 * UPDATES - 1
    assert rates[0] == pytest.approx(1e-3 * RATE) and rates[last] == pytest.approx(RATE) == rates[last + 1]
    assert rates[last // 2] == pytest.approx(RATE * (1e-3 + 0.999 * (last // 2) / last))
    assert len(set(rates[last + 1 : last + 1 + UPDATES])) == 1  # an epoch of one rate
    middle = 1e-5 + (RATE - 1e-5) * (1 + math.cos(math.pi * 10 / 25)) / 2
    assert rates[15 * UPDATES] == pytest.approx(middle)


@pytest.mark.parametrize(("by_epoch", "unit"), [(False, 1), (True, UPDATES)])
def test_poly_is_the_closed_form_of_mmengines_recursion(tmp_path: Path, by_epoch: bool, unit: int) -> None:
    scheduler = [dict(type="PolyLR", by_epoch=by_epoch, begin=0, eta_min=0, power=2.0)]
    draft = imported(tmp_path, new_config(param_scheduler=scheduler, train_cfg=dict(max_epochs=EPOCHS)))
    assert "param_scheduler" not in remarks(draft)
    steps = EPOCHS * UPDATES
    theirs = [0.1 * (1 - (step // unit) / (steps // unit - 1)) ** 2 for step in range(steps)]
    assert our_rates(draft.settings, tmp_path) == pytest.approx(theirs, rel=1e-9, abs=1e-12)


DIFFERENCES = [
    ([dict(type="LinearLR", start_factor=0.1, by_epoch=True, end=1)], "stays at 0.1 of the rate there"),
    ([dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=5, end=9)], "begins with the run"),
    ([dict(type="ConstantLR", factor=0.1, begin=90, end=100)], "here the schedule continues"),
    ([WARM_UP, dict(type="CosineAnnealingLR", T_max=90, begin=5)], "a cosine of 90 from 5 in a run of 100 rises again"),
    ([WARM_UP, dict(type="CosineAnnealingLR", begin=5, end=90)], "stays a step short of its end; here it stays at its"),
    ([WARM_UP, dict(type="CosineAnnealingLR", T_max=80, begin=20)], "but the warm-up ends at 5"),
    ([WARM_UP, dict(type="CosineAnnealingLR", begin=0, end=100)], "runs below the warm-up"),
    ([dict(type="CosineAnnealingParamScheduler", param_name="weight_decay")], "changes the weight decay during"),
]


@pytest.mark.parametrize(("schedulers", "remark"), DIFFERENCES)
def test_a_difference_of_a_schedule_becomes_a_remark(tmp_path: Path, schedulers: list[dict], remark: str) -> None:
    assert remark in remarks(imported(tmp_path, new_config(param_scheduler=schedulers)))


def test_a_run_counted_in_iterations(tmp_path: Path) -> None:
    cosine = [dict(type="CosineAnnealingLR", T_max=90, begin=10, end=100, by_epoch=False)]
    warm_up = [dict(type="LinearLR", start_factor=0.1, end=10, by_epoch=False)]
    draft = imported(tmp_path, new_config(param_scheduler=warm_up + cosine, train_cfg=dict(max_iters=100)))
    assert draft.settings["max_steps"] == 100 and draft.settings["warmup_steps"] == 10
    assert "num_train_epochs" not in draft.settings and "lr_by_epoch" not in draft.settings


@pytest.mark.parametrize(
    "scheduler",
    [
        dict(type="OneCycleLR", eta_max=1),
        dict(type="MultiStepLR", milestones=[100], by_epoch=False),
        dict(type="LinearLR", start_factor=0.1),
    ],
)
def test_a_schedule_without_counterpart_is_refused(tmp_path: Path, scheduler: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="param_scheduler"):
        imported(tmp_path, new_config(param_scheduler=[scheduler]))
