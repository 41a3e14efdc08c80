"""Compares the learning rates of imported schedules with MMEngine's own, step by step. It needs mmengine.

    python benchmarks/mm_schedules.py wheel/mmpretrain/.mim/configs

Each schedule of the folder's importable configs runs once, in epochs of 100 steps, and so do schedules that none of
them has, in place of ResNet-50's. Each line shows the largest difference divided by the peak rate, and the recipe's
remarks on the schedule.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import scheduler as schedulers

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from hf_finetune.mmclassification.importer import import_config
from hf_finetune.training.trainer import ImageClassificationTrainer

UPDATES = 100  # steps of an epoch
RESNET50 = "resnet/resnet50_8xb32_in1k.py"  # 100 epochs
WARM_UP = dict(type="LinearLR", start_factor=0.1, end=5, convert_to_iter_based=True)
FURTHER = {
    "PolyLR by step": [dict(type="PolyLR", power=0.9, eta_min=1e-4, by_epoch=False)],
    "PolyLR by epoch": [dict(type="PolyLR", power=2.0)],
    "PolyLR after a warm-up": [WARM_UP, dict(type="PolyLR", begin=5, convert_to_iter_based=True)],
    "PolyLR to epoch 50": [dict(type="PolyLR", end=50, eta_min=1e-4)],
    "ConstantLR by step": [dict(type="ConstantLR", factor=0.1, end=250, by_epoch=False)],
    "ConstantLR by epoch": [dict(type="ConstantLR", end=5), dict(type="CosineAnnealingLR", begin=5)],
    "LinearLR by epoch": [dict(type="LinearLR", end=5), dict(type="StepLR", step_size=30)],
    "CosineAnnealingLR beyond the run": [WARM_UP, dict(type="CosineAnnealingLR", begin=5, T_max=150)],
}


def new_optimizer(learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)


def our_rates(settings: dict[str, Any]) -> Iterator[float]:
    prefixes = ("lr_", "warmup_", "learning_rate", "num_train_epochs", "max_steps")
    keys = {key: value for key, value in settings.items() if key.startswith(prefixes)}
    args = FinetuneArguments(output_dir="runs/none", use_cpu=True, report_to=[], **keys)
    steps = args.max_steps if args.max_steps > 0 else int(args.num_train_epochs * UPDATES)
    optimizer = new_optimizer(args.learning_rate)
    trainer: Any = SimpleNamespace(args=args, optimizer=optimizer, lr_scheduler=None, _updates_per_epoch=UPDATES)
    schedule = ImageClassificationTrainer.create_scheduler(trainer, steps)
    for _ in range(steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


def their_rates(config: Config) -> Iterator[float]:
    epochs, steps = config.train_cfg.get("max_epochs"), config.train_cfg.get("max_iters")
    steps = epochs * UPDATES if epochs else steps
    optimizer = new_optimizer(config.optim_wrapper.optimizer.lr)
    stated = config.param_scheduler if isinstance(config.param_scheduler, list) else [config.param_scheduler]
    built = []
    for settings in map(dict, stated):
        kind = getattr(schedulers, settings.pop("type"))
        convert = settings.pop("convert_to_iter_based", False)
        settings.setdefault("end", epochs if settings.setdefault("by_epoch", True) else steps)
        if convert:
            built.append(kind.build_iter_from_epoch(optimizer, **settings, epoch_length=UPDATES))
        else:
            built.append(kind(optimizer, **settings))
    for step in range(1, steps + 1):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        for scheduler in built:
            if not scheduler.by_epoch or step % UPDATES == 0:
                scheduler.step()


def compare(path: Path) -> tuple[float, str]:
    """Return the largest difference divided by the peak rate, and the recipe's remarks on the schedule."""
    draft, config = import_config(path), Config.fromfile(path, import_custom_modules=False)
    ours, theirs = list(our_rates(draft.settings)), list(their_rates(config))
    difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / max(theirs)
    return difference, " ".join(str(note) for note in draft.remarks if note.place.startswith("param_scheduler"))


def different_schedules(folder: Path) -> Iterator[Path]:
    """Yield importable configs of a folder, one for each schedule."""
    seen = set()
    for path in sorted(folder.rglob("*.py")):
        if "_base_" in path.parts:
            continue
        try:
            rate = import_config(path).settings["learning_rate"]
            config = Config.fromfile(path, import_custom_modules=False)
        except (UserError, KeyError):  # two configs of mmpretrain 1.2 name a base value that is not there
            continue
        key = str((config.get("param_scheduler"), config.get("train_cfg"), rate))
        if {"param_scheduler", "train_cfg"} <= set(config) and key not in seen:
            seen.add(key)
            yield path


def main(folder: Path) -> None:
    for path in different_schedules(folder):
        difference, remarks = compare(path)
        print(f"{difference:.1e}  {path.relative_to(folder)}  {remarks}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "further_8xb32.py")
        for name, stated in FURTHER.items():
            path.write_text(f"_base_ = {str((folder / RESNET50).absolute())!r}\nparam_scheduler = {stated!r}\n")
            difference, remarks = compare(path)
            print(f"{difference:.1e}  {name}  {remarks}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
