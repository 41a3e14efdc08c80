"""The network of the start: kept, restored, in checkpoints, and taken back where the training made it worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_finetune.training.extensions.probed_start import ProbedStart
from hf_finetune.training.start import keep_better_start
from tests.helpers.networks import make_model
from tests.helpers.stub_loop import StubLoop
from tests.helpers.trainers import make_trainer


def evaluated(extension: ProbedStart, step: int, accuracy: float) -> None:
    extension.loop.state.global_step = step
    extension.on_evaluate(None, extension.loop.state, None, metrics={"eval_accuracy": accuracy})


def test_the_weights_of_the_start_are_kept_and_restored():
    extension = ProbedStart("accuracy")
    extension.attach(StubLoop())
    weight = extension.loop.model.weight
    start = weight.detach().clone()
    evaluated(extension, 0, 0.5)
    weight.data += 1
    evaluated(extension, 10, 0.4)
    assert extension.score == 0.5
    again = ProbedStart("accuracy")
    again.attach(extension.loop)
    again.load_state_dict(extension.state_dict())
    again.restore()
    assert torch.equal(weight, start) and again.score == 0.5


def test_without_an_evaluation_before_the_first_step_nothing_is_kept():
    extension = ProbedStart("accuracy")
    extension.attach(StubLoop())
    evaluated(extension, 10, 0.4)
    assert extension.score is None and extension.state_dict() == {}


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "kept"), [(0.0, False), (50.0, True)])
def test_the_start_is_taken_back_where_validation_finds_it_better(tmp_path: Path, caplog, rate: float, kept: bool):
    model = make_model("resnet")
    trainer = make_trainer(
        tmp_path, model, num_train_epochs=1, learning_rate=rate, eval_on_start=True, on_nan=["skip", 9]
    )
    start = ProbedStart("loss")
    start.attach(trainer.extensions[0].loop)
    trainer.extensions._extensions = (*trainer.extensions._extensions, start)
    trainer.add_callback(start)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    trainer.train()
    figures = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval").metrics
    # At rate 0 only BatchNorm's statistics move, which make the loss better.
    assert keep_better_start(trainer, figures) == kept
    assert ("The training made it worse: loss on validation was" in caplog.text) == kept
    assert kept == all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters()) or rate == 0
