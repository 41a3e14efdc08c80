"""The precision of training passes: what is chosen on which machine, that it is kept, and where it does not apply."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_finetune.errors import Interrupted
from hf_finetune.training import precision as module
from hf_finetune.training import speed
from hf_finetune.training.given import Given
from hf_finetune.training.loss import BatchLoss
from hf_finetune.training.precision import (
    bf16_slowdown,
    choose_precision,
    images_to_measure,
    operations,
    warn_of_slow_bf16,
)
from hf_finetune.training.run import choose_recipe, run
from hf_finetune.training.speed import pass_seconds
from tests.helpers.networks import make_model
from tests.helpers.tiny import write_recipe
from tests.helpers.trainers import make_trainer

BOTH = ("float32", "bf16")


class Stop(TrainerCallback):
    def on_save(self, *_: Any, **__: Any) -> None:
        raise Interrupted(signal.SIGTERM, "stopped")


@pytest.fixture(autouse=True)
def a_cpu_that_computes_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bf16_slowdown", lambda: 1.0)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Pretend that bf16 is measured to be so many times as fast as float32."""

    def pretend(gain: float) -> None:
        monkeypatch.setattr(module, "_FEWEST_OPERATIONS", 0)
        monkeypatch.setattr(module, "pass_seconds", lambda *_: {"float32": 3.0 * gain, "bf16": 3.0})

    return pretend


def test_a_small_run_is_not_measured(tmp_path: Path, logged: list[str]) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet"), num_train_epochs=1000)
    assert images_to_measure(trainer) == 16 and 0 < 16 * operations(trainer) < 1e9  # of a network that is small
    assert choose_precision(trainer) is None
    assert trainer.args.precision == "float32"
    assert logged[1:] == ["Precision: float32; the run is too small to measure whether bf16 is faster."]


def test_so_many_images_are_measured_as_the_run_can_spare(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet"), num_train_epochs=50)
    assert images_to_measure(trainer) == 8  # 64 of the 3,200 images, 8 times
    trainer.args.num_train_epochs = 1000
    assert images_to_measure(trainer) == 16  # the batch
    trainer.args.max_steps = 50  # of 16 images
    assert images_to_measure(trainer) == 2
    trainer.args.max_steps = 49
    assert images_to_measure(trainer) == 0
    trainer.args.seconds_to_use = 60.0
    assert images_to_measure(trainer) == 16


@pytest.mark.parametrize(("gain", "chosen"), [(1.25, "bf16"), (1.15, "float32"), (0.5, "float32")])
def test_a_cpu_needs_a_clear_gain(
    tmp_path: Path, measuring: Callable[[float], None], logged: list[str], gain: float, chosen: str
) -> None:
    measuring(gain)
    trainer = make_trainer(tmp_path, make_model("resnet"), num_train_epochs=1000)
    assert choose_precision(trainer) == (3.0 if chosen == "bf16" else 3.0 * gain)
    assert trainer.args.precision == chosen
    assert logged[1:] == [f"Precision: {chosen}; as measured, bf16 is {gain:.2f} x as fast as float32."]
    assert choose_precision(trainer) is None and len(logged) == 2  # it is settled


def test_the_slowest_of_several_processes_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [{"float32": 2.0, "bf16": 1.0}, {"float32": 2.0, "bf16": 1.9}]
    monkeypatch.setattr(module, "gather_object", lambda own: seconds if isinstance(own[0], dict) else own)
    monkeypatch.setattr(module, "pass_seconds", lambda *_: seconds[0])
    monkeypatch.setattr(module, "images_to_measure", lambda _: 4)
    monkeypatch.setattr(module, "operations", lambda _: 1e12)
    used: list[str] = []
    args = SimpleNamespace(precision="auto", device=torch.device("cpu"), world_size=2, train_batch_size=8)
    args.seconds_to_use, args.use_precision = None, used.append
    trainer: Any = SimpleNamespace(args=args, is_sharded=False, train_dataset=None)
    assert choose_precision(trainer) == 4.0  # seconds of the 8 images of a batch
    assert used == ["float32"]


def test_a_bf16_that_is_given_up_is_slower(
    tmp_path: Path, measuring: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    measuring(1.0)
    monkeypatch.setattr(module, "pass_seconds", lambda *_: {"float32": 3.0, "bf16": math.inf})
    trainer = make_trainer(tmp_path, make_model("resnet"), num_train_epochs=1000)
    assert choose_precision(trainer) == 3.0
    assert logged[1:] == ["Precision: float32; bf16 is slower in a first pass."]


def test_a_cpu_that_emulates_bf16_is_not_measured(
    tmp_path: Path, measuring: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    measuring(2.0)
    monkeypatch.setattr(module, "bf16_slowdown", lambda: 19.6)
    trainer = make_trainer(tmp_path, make_model("resnet"), num_train_epochs=1000)
    assert choose_precision(trainer) is None and trainer.args.precision == "float32"
    assert logged[1:] == ["Precision: float32; this CPU takes 20 x as long for a convolution in bf16."]


@pytest.mark.parametrize(
    ("precision", "slowdown", "told"), [("bf16", 19.6, True), ("bf16", 1.4, False), ("float32", 19.6, False)]
)
def test_a_stated_bf16_that_is_emulated_is_told(
    monkeypatch: pytest.MonkeyPatch, logged: list[str], precision: str, slowdown: float, told: bool
) -> None:
    monkeypatch.setattr(module, "bf16_slowdown", lambda: slowdown)
    args: Any = SimpleNamespace(precision=precision, device=torch.device("cpu"))
    warn_of_slow_bf16(args)
    assert logged == told * [
        "Warning: precision is bf16, in which this CPU takes about 20 x as long as in float32; use"
        " --precision float32, or auto."
    ]


def test_the_slowdown_is_a_ratio_of_two_measurements() -> None:
    assert 0 < bf16_slowdown() < 1000


def test_a_call_that_is_slower_at_first_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"fast": 1.0, "slow": 1.3, "faster": 0.5}
    called: list[str] = []
    monkeypatch.setattr(speed, "_stopwatch", lambda call: called.append(call) or seconds[call])
    assert speed._seconds(["fast", "slow"], math.inf) == [1.0, math.inf]  # type: ignore[list-item]
    assert called == ["fast", "slow", "fast"]
    assert speed._seconds(["fast", "faster"], math.inf) == [1.0, 0.5]  # type: ignore[list-item]
    assert called[3:] == ["fast", "faster"] * 4


@pytest.mark.parametrize(("gpus", "chosen"), [([True, True], "bf16"), ([True, False], "float32")])
def test_gpus_have_it_or_not(monkeypatch: pytest.MonkeyPatch, gpus: list[bool], chosen: str) -> None:
    monkeypatch.setattr(module, "gather_object", lambda own: own + gpus[1:])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpus[0])
    used: list[str] = []
    args = SimpleNamespace(precision="auto", device=torch.device("cuda"), world_size=2, use_precision=used.append)
    assert choose_precision(SimpleNamespace(args=args, is_sharded=False, train_dataset=None)) is None  # type: ignore[arg-type]
    assert used == [chosen]


@pytest.mark.slow
def test_measuring_changes_nothing(tmp_path: Path) -> None:
    model = make_model("resnet")
    trainer = make_trainer(tmp_path, model)
    before, random_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    seconds = pass_seconds(trainer, 8, BOTH, 10.0)
    assert list(seconds) == list(BOTH) and all(value > 0 for value in seconds.values())
    assert trainer.args.precision == "auto" and torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_bf16_is_for_training_passes_alone(tmp_path: Path) -> None:
    model = make_model("resnet")
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    model.resnet.embedder.register_forward_hook(lambda module, _, output: seen[module.training].add(output.dtype))
    trainer = make_trainer(tmp_path, model, precision="bf16", max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer.train()
    trainer.predict(trainer.eval_dataset)
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_loss_is_computed_in_float32() -> None:
    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert logits.dtype == (logits @ logits.T).dtype == torch.float32  # autocast would make it bf16
        return logits[:, 0]

    with torch.autocast("cpu", torch.bfloat16):
        BatchLoss(loss)(SimpleNamespace(logits=torch.ones(2, 3, dtype=torch.bfloat16)), torch.zeros(2).long())


@pytest.mark.slow
def test_a_run_resumes_in_the_precision_that_it_chose(
    image_folder: Path, tmp_path: Path, measuring: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = str(write_recipe(tmp_path, num_train_epochs=2, lr_milestones=None, eval_strategy="no"))

    def start(name: str, given: Given, **settings: Any) -> None:
        settings = {"output_dir": str(tmp_path / name), "dataset": str(image_folder), **settings}
        settings |= {"load_best_model_at_end": False}
        run(choose_recipe(recipe, settings, str), "hf-finetune train", given)

    def fail(*_: Any) -> None:
        raise AssertionError("it is measured again")

    measuring(2.0)
    monkeypatch.setattr(module, "_PASSES", 1)
    with pytest.raises(Interrupted):
        start("stopped", Given(callbacks=(Stop(),)))
    assert yaml.safe_load((tmp_path / "stopped" / "recipe.yaml").read_text())["precision"] == "bf16"
    monkeypatch.setattr(module, "pass_seconds", fail)
    start("stopped", Given())
    start("whole", Given(), precision="bf16")
    start("single", Given(), precision="float32")
    stopped, whole, single = (
        load_file(tmp_path / name / "model.safetensors") for name in ("stopped", "whole", "single")
    )
    assert all(torch.equal(stopped[name], whole[name]) for name in whole)
    assert not all(torch.equal(single[name], whole[name]) for name in whole)
