"""Training images have the size of their epoch; evaluation has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_finetune.errors import UserError
from hf_finetune.models.freeze import freeze_modules
from hf_finetune.training.extensions.image_sizes import size_at
from hf_finetune.training.sanity_check import sanity_check
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer

SCHEDULE = {0: 8, 0.5: 12, 0.75: 16}
SETTINGS: dict[str, Any] = {
    **{"num_train_epochs": 4, "image_size_schedule": SCHEDULE, "eval_strategy": "epoch", "save_strategy": "steps"},
    **{"save_steps": 3, "save_total_limit": None},
}


def test_the_size_is_that_of_the_last_share_that_began() -> None:
    assert [size_at(SCHEDULE, share) for share in (0, 0.49, 0.5, 0.74, 0.75, 1)] == [8, 8, 12, 12, 16, 16]
    assert size_at({0.5: 12}, 0.4) is None


@pytest.mark.slow
def test_images_grow_in_training_alone_and_a_resumed_run_is_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("resnet")
    trainer = make_trainer(tmp_path, model, **SETTINGS)
    sanity_check(trainer)
    seen: list[tuple[bool, int]] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((module.training, kwargs["pixel_values"].shape[-1])), with_kwargs=True
    )
    trainer.train()
    hook.remove()
    assert [side for training, side in seen if training] == [8] * 8 + [12] * 4 + [16] * 4
    assert {side for training, side in seen if not training} == {16}
    out = capsys.readouterr().out
    assert "From epoch 0 on training images have 8 pixels." in out and "From epoch 3 on" in out
    for step in (3, 9):
        resumed = make_model("resnet")
        again = make_trainer(tmp_path, resumed, **SETTINGS)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({0: 32}, "32 is more than the 16 pixels of training images"),
        ({1: 8}, "1 is no share from 0 to below 1; use shares"),
        ({"a": 8}, "'a' is no share"),
        ({0: 0.5}, "0.5 is no number of pixels"),
        ({}, "image_size_schedule is empty"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, schedule: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sanity_check(make_trainer(tmp_path, make_model("resnet"), image_size_schedule=schedule))


def test_networks_that_cannot_take_it_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="images of 8 pixels do not go through ViT.*use other sizes, or a network of"):
        sanity_check(make_trainer(tmp_path, make_model("vit"), image_size_schedule={0: 8}))
    frozen = make_model("resnet")
    freeze_modules(frozen, ["backbone"])
    with pytest.raises(UserError, match="but it is frozen; leave it out"):
        sanity_check(make_trainer(tmp_path, frozen, image_size_schedule={0: 8}))
