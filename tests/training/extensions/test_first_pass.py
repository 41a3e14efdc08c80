"""What goes wrong in the first pass of a whole batch is one line; later errors stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from hf_finetune.errors import UserError
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer


@pytest.mark.parametrize(("good_passes", "error"), [(0, UserError), (1, RuntimeError)])
def test_only_the_first_pass_is_told_in_one_line(tmp_path: Path, good_passes: int, error: type[Exception]) -> None:
    model: Any = make_model("resnet")
    trainer = make_trainer(tmp_path, model, max_steps=3)
    usual, passes = model.forward, [0]

    def forward(**inputs: Any) -> Any:
        passes[0] += 1
        if passes[0] > good_passes:
            raise RuntimeError(f"shape of {len(inputs['pixel_values'])} images")
        return usual(**inputs)

    model.forward = forward
    with pytest.raises(error, match="shape of 16 images") as caught:
        trainer.train()
    told = "A training batch of 16 images does not go through ResNetForImageClassification: shape of 16 images; check"
    assert str(caught.value).startswith(told) == (good_passes == 0)


def test_an_error_of_a_callback_stays_as_it_is(tmp_path: Path) -> None:
    class Fails(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            raise ValueError("of my own")

    trainer = make_trainer(tmp_path, make_model("resnet"), max_steps=3)
    trainer.add_callback(Fails())
    with pytest.raises(ValueError, match="of my own"):
        trainer.train()
