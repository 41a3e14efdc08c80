"""A run ends after evaluations without a better figure, also when it resumes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerControl

from hf_finetune.errors import UserError
from hf_finetune.training.extensions.early_stopping import EarlyStopping
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer


def evaluate(extension: EarlyStopping, *values: float, greater: bool = True) -> list[bool]:
    """Show an evaluation after each of the steps 1, 2, ...; return whether the run is asked to stop."""
    args: Any = SimpleNamespace(metric_for_best_model="accuracy", greater_is_better=greater)
    asked = []
    for step, value in enumerate(values, 1):
        state: Any = SimpleNamespace(global_step=step)
        control = TrainerControl()
        extension.on_evaluate(args, state, control, metrics={"eval_accuracy": value, "eval_loss": 0.0})
        asked.append(control.should_training_stop)
    return asked


def test_patience_counts_evaluations_since_the_best() -> None:
    assert evaluate(EarlyStopping(2), 0.1, 0.2, 0.2, 0.3, 0.2, float("nan")) == [False] * 5 + [True]
    assert evaluate(EarlyStopping(1), 3, 2, 2, greater=False) == [False, False, True]


def test_the_count_survives_a_checkpoint() -> None:
    first, second = EarlyStopping(2), EarlyStopping(2)
    evaluate(first, 0.5, 0.4)
    second.load_state_dict(first.state_dict())
    assert evaluate(second, 0.4) == [True]
    again, control = EarlyStopping(2), TrainerControl()
    again.load_state_dict(second.state_dict())
    again.on_train_begin(SimpleNamespace(), SimpleNamespace(), control)  # type: ignore[arg-type]
    assert control.should_training_stop


SETTINGS: dict[str, Any] = {
    **{"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "greater_is_better": True},
    **{"metric_for_best_model": "accuracy", "num_train_epochs": 8, "early_stopping_patience": 2, "learning_rate": 1e-9},
    "save_total_limit": None,
}


@pytest.mark.slow
def test_a_run_that_does_not_improve_ends_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet"), **SETTINGS)
    trainer.train()
    assert trainer.state.global_step == 12 and trainer.state.best_global_step == 4  # of 32 steps in 8 epochs
    said = "Stopped early at step 12 of 32: 2 evaluation(s) without a better accuracy than"
    assert said in capsys.readouterr().out and (tmp_path / "checkpoint-12").is_dir()

    class Steps(TrainerCallback):
        count = 0

        def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
            self.count += 1

    def resumed(step: int) -> tuple[ImageClassificationTrainer, int]:
        again = make_trainer(tmp_path, make_model("resnet"), **SETTINGS)
        again.add_callback(steps := Steps())
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        return again, steps.count

    killed_before_its_result, count = resumed(12)
    assert count == 0 and killed_before_its_result.state.global_step == 12
    assert said in capsys.readouterr().out
    in_the_middle, count = resumed(8)
    assert count == 4 and in_the_middle.state.global_step == 12
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, in_the_middle.model.state_dict()[name]), name


def test_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="eval_strategy is no; use --eval_strategy epoch"):
        make_trainer(tmp_path, make_model("resnet"), early_stopping_patience=2)
    with pytest.raises(UserError, match="early_stopping_patience is 0; use a number of at least 1"):
        make_trainer(tmp_path, make_model("resnet"), early_stopping_patience=0)
    trainer = make_trainer(tmp_path, make_model("resnet"), **SETTINGS)
    with pytest.raises(UserError, match="needs a validation split, and there is none; use --validation_fraction 0.1"):
        trainer.args.prepare_for_run(has_validation=False)
