"""Non-finite losses: named, or their steps skipped so that nothing of them stays."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from hf_finetune.models.layout import use_channels_last
from hf_finetune.models.quiet import quiet_transformers
from hf_finetune.training.sampling import EpochSampler
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer

ITEMS = ("RandomHorizontalFlip",)
Loss = Callable[..., torch.Tensor]


def break_loss(trainer: ImageClassificationTrainer, steps: set[int], how: str = "nan", micro_batch: int = 0) -> None:
    """Spoils the loss of one forward pass of each of these optimizer steps, counted from 1, or its gradient alone."""
    whole: Loss = trainer.compute_loss_func
    passes: dict[int, int] = {}

    def broken(outputs: object, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        loss = whole(outputs, labels, num_items_in_batch)
        step = trainer.state.global_step + 1
        passes[step] = passes.get(step, -1) + 1
        if step not in steps or passes[step] != micro_batch:
            return loss
        if how == "gradient":  # the root of 0 has the derivative infinity, which times 0 is not a number
            return loss + (outputs.logits * 0).sum().sqrt()
        return loss * math.nan if how == "nan" else loss + math.inf

    trainer.compute_loss_func = broken


def reference(count: int, skipped: set[int], epochs: int, rates: list[float]) -> dict[str, torch.Tensor]:
    """Plain PyTorch: the same batches in the same order, SGD, and nothing at all done in the skipped steps."""
    trainer = make_trainer(Path("unused"), make_model("resnet"), items=ITEMS, count=count)
    model, batches, stage = make_model("resnet").train(), trainer.train_dataset, trainer.device_stage
    use_channels_last(model, is_trained=True)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=1e-4, lr=1.0, fused=True)
    sampler, step = EpochSampler(count, seed=42), 0
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        trainer.set_epoch(epoch)
        for rows in torch.tensor(list(sampler)).split(16):
            step += 1
            batch = stage(batches.__getitems__(rows.tolist()))
            if step in skipped:
                continue
            optimizer.param_groups[0]["lr"] = rates[step - 1]
            optimizer.zero_grad()
            functional.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"]).backward()
            optimizer.step()
    return model.state_dict()


def assert_equal(trainer: ImageClassificationTrainer, expected: dict[str, torch.Tensor], tolerance: float = 0) -> None:
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_skipped_step_leaves_nothing_behind(tmp_path, monkeypatch, capsys, how):
    monkeypatch.chdir(tmp_path)
    settings = {"num_train_epochs": 2, "learning_rate": 0.1, "lr_milestones": [1.0], "on_nan": ["skip", 3]}
    trainer = make_trainer(tmp_path, make_model("resnet"), items=ITEMS, **settings)
    break_loss(trainer, {1, 3, 6}, how)
    trainer.train()
    rates = [0.1] * 4 + [0.01] * 4  # the schedule advances
    assert_equal(trainer, reference(64, {1, 3, 6}, 2, rates), tolerance=1e-6)
    assert [step["step"] for step in trainer.skipped_steps] == [1, 3, 6]
    assert [step["learning_rate"] for step in trainer.skipped_steps] == pytest.approx([0.1, 0.1, 0.01])
    logged = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    assert sorted(logged) == [2, 4, 5, 7, 8] and all(map(math.isfinite, logged.values()))
    sampler = EpochSampler(64, seed=42)
    assert trainer.skipped_steps[0]["images"] == [f"row {row} of train" for row in list(sampler)[:16]]
    printed = capsys.readouterr().out
    assert "Note: the loss is not finite at step 3 (rate 0.1); it is skipped, 2 of at most 3 steps." in printed


def test_of_an_accumulated_step_nothing_is_kept(tmp_path, monkeypatch):
    """One bad forward pass of four spoils the whole step."""
    monkeypatch.chdir(tmp_path)
    weights = []
    for micro_batch in (0, 3):
        trainer = make_trainer(
            tmp_path / str(micro_batch),
            make_model("resnet"),
            num_train_epochs=1,
            gradient_accumulation_steps=4,
            on_nan=["skip", 1],
        )
        break_loss(trainer, {2}, micro_batch=micro_batch)
        trainer.train()
        assert len(trainer.skipped_steps) == 1 and len(trainer.skipped_steps[0]["images"]) == 16
        weights.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
    undisturbed = make_trainer(
        tmp_path / "other", make_model("resnet"), num_train_epochs=1, gradient_accumulation_steps=4
    )
    undisturbed.train()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    assert not torch.equal(weights[0]["classifier.1.weight"], undisturbed.model.state_dict()["classifier.1.weight"])
    batches = [tensor for name, tensor in weights[0].items() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in batches} == {12}  # of 16 forward passes


def test_the_mean_loss_is_that_of_the_other_steps(tmp_path):
    settings = {"num_train_epochs": 1, "learning_rate": 0.0, "lr_scheduler_type": "constant", "weight_decay": 0.0}
    losses = {}
    for broken in (set(), {1, 3}):
        trainer = make_trainer(
            tmp_path / str(len(broken)), make_model("vit"), logging_steps=4, on_nan=["skip", 2], **settings
        )
        break_loss(trainer, broken)
        single = []
        step = trainer.training_step
        trainer.training_step = lambda *args, step=step, single=single: (single.append(step(*args)), single[-1])[1]
        result = trainer.train()
        kept = [float(loss) for number, loss in enumerate(single, 1) if number not in broken]
        losses[len(broken)] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses[len(broken)] == pytest.approx([sum(kept) / len(kept)])
        assert result.metrics["train_loss"] == pytest.approx(sum(kept) / len(kept))


def test_more_steps_than_allowed_stop_the_run(tmp_path):
    trainer = make_trainer(tmp_path, make_model("resnet"), num_train_epochs=3, on_nan=["skip", 2])
    break_loss(trainer, {2, 5, 7})
    with pytest.raises(UserError, match=r"at step 7 \(epoch 1.50, rate 0.01\), and 2 were skipped before; use a lower"):
        trainer.train()


def test_a_resumed_run_goes_on_counting(tmp_path):
    settings = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 4, "on_nan": ["skip", 2]}
    whole = make_trainer(tmp_path / "whole", make_model("resnet"), **settings)
    break_loss(whole, {2, 7})
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", make_model("resnet"), **settings)
    break_loss(resumed, {7})
    with quiet_transformers():
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-8"))
    assert_equal(resumed, whole.model.state_dict())
    assert resumed.skipped_steps == whole.skipped_steps and len(whole.skipped_steps) == 2
    again = make_trainer(tmp_path / "again", make_model("resnet"), **settings)
    break_loss(again, {9})
    with pytest.raises(UserError, match="at step 9 .* and 2 were skipped before"):
        again.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-8"))


def test_a_stop_names_step_rate_and_images(tmp_path):
    trainer = make_trainer(tmp_path, make_model("resnet"), num_train_epochs=2, lr_milestones=[1.0])
    break_loss(trainer, {6})
    sampler = EpochSampler(64, seed=42)
    sampler.set_epoch(1)
    rows = ", ".join(f"row {row} of train" for row in list(sampler)[16:32])
    with pytest.raises(UserError) as caught:
        trainer.train()
    message = str(caught.value)
    assert message.startswith("The loss is not finite at step 6 (epoch 1.25, rate 0.001); use a lower --learning_rate")
    assert "or --on_nan skip 10" in message and message.endswith(f"Images of that step: {rows}.")
    assert "\n" not in message


def test_broken_weights_are_not_saved(tmp_path):
    """A gradient that is not a number behind a loss that is one: the step's checkpoint would be of no use."""
    trainer = make_trainer(tmp_path, make_model("resnet"), num_train_epochs=1, save_strategy="steps", save_steps=1)
    break_loss(trainer, {3}, "gradient")
    with pytest.raises(UserError, match="The weights are not finite at step 3"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert json.loads((tmp_path / "checkpoint-2/trainer_state.json").read_text())["global_step"] == 2


@pytest.mark.parametrize(
    "value", [["skip"], ["skip", 0], ["skip", -1], ["skip", 1.5], ["stop", 3], ["go"], ["skip", 1, 2]]
)
def test_what_on_nan_cannot_be(tmp_path, value):
    with pytest.raises(UserError, match=f'on_nan is "{" ".join(map(str, value))}"; use stop, or skip and a number'):
        FinetuneArguments(output_dir=str(tmp_path), use_cpu=True, on_nan=value)
