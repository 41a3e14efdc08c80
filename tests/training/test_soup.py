"""Soups of the best checkpoints: which weights are kept, how they are averaged, and which becomes the result."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_finetune import finetune
from hf_finetune.errors import UserError
from hf_finetune.training.extensions.best_weights import FOLDER, BestWeights
from hf_finetune.training.soup import keep_better_soup, mean_of, recompute_batch_norm
from tests.helpers.networks import make_model
from tests.helpers.stub_loop import StubLoop
from tests.helpers.tiny import write_recipe
from tests.helpers.trainers import make_trainer

SETTINGS: dict[str, Any] = {
    **{"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "greater_is_better": True},
    **{"metric_for_best_model": "accuracy", "num_train_epochs": 5, "best_k_soup": 3, "learning_rate": 0.02},
    "save_total_limit": None,
}


def evaluated(extension: BestWeights, loop: StubLoop, step: int, value: float) -> None:
    """Set the loop's weights to the step's number, and show an evaluation."""
    with torch.no_grad():
        for parameter in loop.model.parameters():
            parameter.fill_(step)
    args: Any = SimpleNamespace(metric_for_best_model="accuracy", greater_is_better=True, should_save=True)
    extension.on_evaluate(args, SimpleNamespace(global_step=step), None, metrics={"eval_accuracy": value})  # type: ignore[arg-type]


def test_the_best_weights_are_kept_and_others_removed(tmp_path: Path) -> None:
    extension, loop = BestWeights(2, tmp_path), StubLoop()
    loop.accelerator.wait_for_everyone = lambda: None
    extension.attach(loop)  # type: ignore[arg-type]
    for step, value in ((1, 0.5), (2, 0.7), (3, float("nan")), (4, 0.6), (5, 0.7)):
        evaluated(extension, loop, step, value)
    assert extension.kept == [(2, 0.7), (5, 0.7)]
    assert {file.name for file in (tmp_path / FOLDER).iterdir()} == {"step-2.safetensors", "step-5.safetensors"}
    resumed = BestWeights(2, tmp_path)
    resumed.attach(loop)  # type: ignore[arg-type]
    resumed.load_state_dict(json.loads(json.dumps(extension.state_dict())))
    assert resumed.kept == extension.kept
    assert {step: float(own["weight"][0, 0]) for step, own in resumed.weights().items()} == {2: 2.0, 5: 5.0}
    (tmp_path / FOLDER / "step-2.safetensors").unlink()
    assert list(resumed.weights()) == [5]


def test_the_mean_is_of_floating_point_tensors() -> None:
    ones, threes = ({"w": torch.full((2,), value), "n": torch.tensor(int(value))} for value in (1.0, 3.0))
    mean = mean_of([ones, threes])
    assert mean["w"].tolist() == [2, 2] and mean["n"] == 1


@pytest.mark.slow
def test_batch_norm_is_the_mean_over_the_training_images(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet"))
    norm = trainer.model.resnet.embedder.embedder.normalization
    seen: list[torch.Tensor] = []
    hook = norm.register_forward_hook(lambda module, given, output: seen.append(given[0].mean(dim=(0, 2, 3))))
    recompute_batch_norm(trainer)
    hook.remove()
    assert len(seen) == 4
    torch.testing.assert_close(norm.running_mean, torch.stack(seen).mean(dim=0))
    assert norm.momentum == 0.1 and not norm.training


@pytest.mark.slow
def test_the_better_of_soups_and_the_best_checkpoint_is_kept_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet"), **SETTINGS)
    trainer.train()
    extension = trainer.extensions.find(BestWeights)
    assert extension is not None and len(extension.kept) == 3
    best = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    chosen = keep_better_soup(trainer, trainer.eval_dataset)
    out = capsys.readouterr().out
    assert "Soups of the 3 best checkpoints, of steps" in out and "is kept." in out
    figure = (trainer.predict(trainer.eval_dataset).metrics or {})["test_accuracy"]
    assert figure >= extension.kept[0][1]
    same = all(torch.equal(tensor, best[name]) for name, tensor in trainer.model.state_dict().items())
    assert same == (chosen == 1)
    # A soup that is better by far: two halves of a network that are useless alone.
    good = best["classifier.1.weight"] * 4
    halves = [{**best, "classifier.1.weight": good + sign * 40 * torch.randn(good.shape)} for sign in (0, 0)]
    noise = torch.randn(good.shape) * 40
    for half, sign in zip(halves, (1, -1), strict=True):
        half["classifier.1.weight"] = good + sign * noise
    extension.weights = lambda: dict(enumerate(halves))  # type: ignore[method-assign]
    assert keep_better_soup(trainer, trainer.eval_dataset) == 2
    torch.testing.assert_close(trainer.model.classifier[1].weight.detach(), good, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_run_with_a_soup_leaves_its_result_alone(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, best_k_soup=2, dataset=str(image_folder))
    result = finetune(recipe=str(recipe), output_dir=tmp_path / "run")
    assert result.metrics["train_soup_of_checkpoints"] in (1, 2)
    assert not (tmp_path / "run" / FOLDER).exists()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]["train_soup_of_checkpoints"] >= 1


@pytest.mark.slow
def test_a_resumed_run_has_the_same_soup(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path, make_model("resnet"), **SETTINGS)
    whole.train()
    keep_better_soup(whole, whole.eval_dataset)
    resumed = make_trainer(tmp_path, make_model("resnet"), **SETTINGS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    keep_better_soup(resumed, resumed.eval_dataset)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_what_it_needs(tmp_path: Path) -> None:
    for changes, message in (
        ({"load_best_model_at_end": False}, "use --load_best_model_at_end true"),
        ({"ema_decay": 0.9}, "ema_decay and best_k_soup both average"),
        ({"best_k_soup": 1}, "best_k_soup is 1; use a number of at least 2"),
        ({"time_budget": "1m"}, "best_k_soup takes time after the training"),
    ):
        with pytest.raises(UserError, match=message):
            make_trainer(tmp_path, make_model("resnet"), **{**SETTINGS, **changes})
    trainer = make_trainer(tmp_path, make_model("resnet"), **SETTINGS)
    with pytest.raises(UserError, match="best_k_soup needs a validation split"):
        trainer.args.prepare_for_run(has_validation=False)
