"""Learning rates by depth, for the head and by name: in groups, on resume, in schedules and in the log."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from hf_finetune.errors import UserError
from hf_finetune.models.freeze import freeze_modules
from hf_finetune.training.rates import Rate, Rates
from hf_finetune.training.sanity_check import sanity_check
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.families import FAMILIES, make_family
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer


def found_rates(trainer: ImageClassificationTrainer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each trained parameter, each in one group."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    groups = trainer.create_optimizer().param_groups
    found = [(names[id(parameter)], group) for group in groups for parameter in group["params"]]
    assert len(found) == len(names) == len(dict(found))
    return {name: (group["lr"], group["weight_decay"]) for name, group in found}


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_rise_from_the_stem_to_the_head_in_every_family(family: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"layer_decay": 0.5, "learning_rate": 0.8, "decay_norm_and_bias": False}
    trainer = make_trainer(tmp_path, make_family(family), **settings)
    rates = found_rates(trainer)
    last = [name for name, _ in trainer.model.named_parameters()][-1]
    assert rates[last][0] == 0.8 == max(rate for rate, _ in rates.values())
    stages = list(dict.fromkeys(rate for rate, _ in rates.values()))
    assert len(stages) >= 3
    for name, parameter in trainer.model.named_parameters():
        assert rates[name][1] == (1e-4 if parameter.ndim > 1 else 0), name
    words = trainer.rates.report[0]
    assert words.startswith("Learning rates: ") and words.endswith("head 0.8.")


def test_the_head_and_patterns_multiply_and_the_longest_pattern_wins(tmp_path: Path) -> None:
    groups = {"*.bias": {"lr_multiplier": 2, "weight_decay": 0}, "classifier.1.bias": {"lr_multiplier": 0.5}}
    groups["resnet.embedder"] = {"weight_decay": 0.3}
    trainer = make_trainer(tmp_path, make_model("resnet"), head_lr_multiplier=10.0, param_groups=groups)
    rates = found_rates(trainer)
    assert rates["classifier.1.weight"] == pytest.approx((0.1, 1e-4))
    assert rates["classifier.1.bias"] == pytest.approx((0.05, 1e-4))
    assert rates["resnet.embedder.embedder.normalization.bias"] == pytest.approx((0.01, 0.3))
    assert rates["resnet.encoder.stages.0.layers.0.layer.0.normalization.bias"] == (0.02, 0)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.01  # what the log shows
    assert trainer.rates.report == (
        "Learning rates: backbone 0.01, head 0.1; resnet.embedder (3 parameters) weight decay 0.3; *.bias"
        " (5 parameters) x 2, weight decay 0; classifier.1.bias (1 parameters) x 0.5.",
    )


def test_one_rate_leaves_the_stock_groups_alone(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet"))
    assert len(trainer.create_optimizer().param_groups) == 2 and trainer.rates.report == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"param_groups": {"*.bais": {"lr_multiplier": 2}}}, 'no parameter is called "\\*.bais".*Use the name of'),
        ({"param_groups": {"resnet.embeder": {"lr_multiplier": 2}}}, 'Did you mean "resnet.embedder"'),
        ({"param_groups": {"*.bias": {"lr": 2}}}, 'has no option "lr"'),
        ({"param_groups": {"*.bias": {}}}, "holds {}; use such as"),
        ({"param_groups": {"*.bias": {"weight_decay": -1}}}, "use a number of at least 0"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0; use a number above 0"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5; use a number from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path, make_model("resnet"), **settings)


def test_names_that_wrappers_change_are_known_and_others_refused() -> None:
    model = make_model("resnet")
    rates = Rates({name: Rate(0.5) for name, _ in model.named_parameters()})
    wrapped = [(f"_orig_mod.{name.replace('stages.0', 'stages.0._fsdp_wrapped_module')}", own) for name, own in
               model.named_parameters()]  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    rates.apply(optimizer, wrapped)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1]
    flat = torch.nn.Parameter(torch.zeros(3))  # as FSDP 1 has them
    with pytest.raises(UserError, match="do not go with SGD, which does not keep .* use another --optim"):
        rates.apply(torch.optim.SGD([flat], lr=0.2), [("_fsdp_wrapped_module._flat_param", flat)])


def test_deepspeeds_own_optimizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet"), layer_decay=0.5)
    plugin = SimpleNamespace(deepspeed_config={"optimizer": {"type": "AdamW"}})
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    monkeypatch.setattr(trainer.accelerator.state, "deepspeed_plugins", {"one": plugin}, raising=False)
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", plugin, raising=False)
    with pytest.raises(UserError, match="take the optimizer out of the file of deepspeed"):
        sanity_check(trainer)


def test_frozen_parameters_are_in_no_group_and_the_log_leaves_them_out(tmp_path: Path) -> None:
    model = make_model("vit")
    freeze_modules(model, ["vit.embeddings"])
    trainer = make_trainer(tmp_path, model, layer_decay=0.5, param_groups={"vit.embeddings": {"lr_multiplier": 2}})
    assert not [name for name in found_rates(trainer) if name.startswith("vit.embeddings")]
    assert trainer.rates.report[0].startswith("Learning rates: block 1 0.0025, block 2 0.005, last layers 0.01, head")
    assert "all frozen" in trainer.rates.report[0]


def test_the_line_is_logged_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sanity_check(make_trainer(tmp_path, make_model("resnet"), layer_decay=0.5))
    assert "Learning rates: stem 0.00125, block 1 0.0025, block 2 0.005, head 0.01." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_steps_follow_the_multipliers_and_the_schedule(tmp_path: Path, optim: str) -> None:
    settings: dict[str, Any] = {"lr_scheduler_type": "linear", "max_steps": 4, "optim": optim}
    trainer = make_trainer(tmp_path, make_model("resnet"), layer_decay=0.5, **settings)
    seen: list[list[float]] = []

    class Rates(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **kwargs: Any) -> None:
            seen.append(sorted(group["lr"] for group in trainer.optimizer.param_groups))

    trainer.add_callback(Rates())
    trainer.train()
    for step, rates in enumerate(seen):
        assert rates == pytest.approx([0.01 * factor * (1 - step / 4) for factor in (0.125, 0.25, 0.5, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_a_resumed_run_with_rates_and_an_average_is_exact(tmp_path: Path, optim: str) -> None:
    settings: dict[str, Any] = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "optim": optim}
    settings |= {"layer_decay": 0.6, "head_lr_multiplier": 3.0, "ema_decay": 0.9, "save_total_limit": None}
    settings |= {"param_groups": {"*.bias": {"lr_multiplier": 2, "weight_decay": 0}}, "decay_norm_and_bias": False}
    whole = make_trainer(tmp_path / "whole", make_model("resnet"), **settings)
    whole.train()
    resumed = make_trainer(tmp_path / "whole", make_model("resnet"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_network_without_blocks_is_refused(tmp_path: Path) -> None:
    model = make_model("resnet")
    model.resnet.encoder.stages = nn.ModuleList(list(model.resnet.encoder.stages)[:1])
    model.resnet.encoder.stages[0].layers = nn.Sequential()
    model.resnet.embedder = nn.ModuleDict({"embedder": model.resnet.embedder.embedder})
    with pytest.raises(UserError, match="layer_decay: .* has no list of blocks"):
        make_trainer(tmp_path, model, layer_decay=0.5)
