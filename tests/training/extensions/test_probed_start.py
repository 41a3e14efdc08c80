"""The network of the start: kept, restored, in checkpoints, and taken back where the training made it worse."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_finetune.evaluation.metrics import ClassificationMetrics
from hf_finetune.training.extensions.list import Extensions
from hf_finetune.training.extensions.probed_start import ProbedStart
from hf_finetune.training.start import keep_better_start
from tests.helpers.networks import make_model
from tests.helpers.stub_loop import StubLoop
from tests.helpers.trainers import make_trainer


def evaluated(extension: ProbedStart, step: int, accuracy: float) -> None:
    extension.loop.state.global_step = step
    extension.on_evaluate(None, extension.loop.state, None, metrics={"eval_accuracy": accuracy, "eval_loss": 1.5})


def watching(loop: StubLoop) -> ProbedStart:
    extension = ProbedStart("accuracy")
    extension.watches = True
    extension.attach(loop)
    return extension


def test_the_weights_of_the_start_are_kept_and_restored():
    extension = watching(StubLoop())
    weight = extension.loop.model.weight
    start = weight.detach().clone()
    evaluated(extension, 0, 0.5)
    weight.data += 1
    evaluated(extension, 10, 0.4)
    assert (extension.score, extension.loss) == (0.5, 1.5)
    again = ProbedStart("accuracy")
    again.attach(extension.loop)
    again.load_state_dict(extension.state_dict())
    again.restore()
    assert torch.equal(weight, start) and (again.score, again.loss) == (0.5, 1.5)


def test_without_an_evaluation_of_a_probed_head_before_the_first_step_nothing_is_kept():
    extension = watching(StubLoop())
    evaluated(extension, 10, 0.4)
    assert extension.score is None and extension.state_dict() == {}
    extension.watches = False
    evaluated(extension, 0, 0.4)
    assert extension.score is None and extension.state_dict() == {}


@pytest.mark.parametrize(
    ("metric", "images", "start", "trained", "kept"),
    [
        ("accuracy", 1000, (0.80, 0.9), (0.75, 0.5), "accuracy"),
        ("accuracy", 1000, (0.80, 0.5), (0.85, 0.9), None),
        ("accuracy", 10, (0.80, 0.9), (0.70, 0.5), None),  # one image: the cross entropy decides
        ("accuracy", 10, (0.70, 0.5), (0.80, 0.9), "loss"),
        ("accuracy", 10, (1.00, 0.1), (1.00, 0.1), None),  # nothing speaks against what was trained
        ("accuracy", 10, (1.00, 0.1), (0.20, 0.0), "accuracy"),
        ("loss", 10, (0.5, 0.5), (0.6, 0.6), "loss"),
        ("loss", 10, (0.6, 0.6), (0.5, 0.5), None),
    ],
)
def test_the_better_network_is_kept(caplog, metric, images, start, trained, kept):
    extension = watching(StubLoop())
    extension.metric, (extension.score, extension.loss) = metric, start
    taken_back: list[bool] = []
    extension.restore = lambda: taken_back.append(True)
    trainer = SimpleNamespace(
        extensions=Extensions([extension]), compute_metrics=ClassificationMetrics([str(i) for i in range(10)])
    )
    figures = {f"eval_{metric}": trained[0], "eval_loss": trained[1]}
    caplog.set_level("INFO", "hf_finetune")
    assert keep_better_start(trainer, SimpleNamespace(metrics=figures, predictions=(range(images),))) == bool(kept)
    assert bool(taken_back) == bool(kept)
    assert (f"The training made it worse: {kept} on validation was" in caplog.text) == bool(kept)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "kept"), [(0.0, False), (50.0, True)])
def test_the_start_is_taken_back_where_validation_finds_it_better(tmp_path: Path, caplog, rate: float, kept: bool):
    model = make_model("resnet")
    trainer = make_trainer(
        tmp_path, model, num_train_epochs=1, learning_rate=rate, eval_on_start=True, on_nan=["skip", 9]
    )
    start = trainer.extensions.find(ProbedStart)
    start.watches, start.metric = True, "loss"
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    trainer.train()
    evaluated = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    # At rate 0 only BatchNorm's statistics move, which make the loss better.
    assert keep_better_start(trainer, evaluated) == kept
    assert ("The training made it worse: loss on validation was" in caplog.text) == kept
    assert kept == all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters()) or rate == 0
