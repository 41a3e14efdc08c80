"""Streamed runs: interrupted and resumed they end in the same weights; steps, rates and figures are as without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_finetune import finetune
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.errors import UserError
from hf_finetune.jobs.evaluate import evaluate_model
from hf_finetune.training.loaders import arrange
from tests.helpers.streamed import write_parquet, write_tars
from tests.helpers.streamed_run import make_streaming_trainer
from tests.helpers.tiny import write_recipe


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uneven shards of 103 images, which fill no whole number of batches, and 21 for test."""
    folder = tmp_path_factory.mktemp("streamed")
    write_parquet(folder, "train", 103, files=3, row_group=9)
    return write_parquet(folder, "test", 21, files=2)


def train(dataset: Path, folder: Path, checkpoint: Path | None = None, **settings: object) -> dict[str, torch.Tensor]:
    trainer = make_streaming_trainer(dataset, folder, **settings)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.end()  # and with it the workers that persist
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (0, 2), (2, 1)])
def test_a_resumed_run_ends_in_the_weights_of_an_undisturbed_one(dataset, tmp_path, workers, accumulation) -> None:
    settings = {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulation}
    undisturbed = train(dataset, tmp_path, **settings)
    for step in (8, 20):  # in the midst of epochs of seven steps
        resumed = train(dataset, tmp_path / str(step), tmp_path / f"checkpoint-{step}", **settings)
        assert_equal(resumed, undisturbed)


def test_workers_that_persist_see_the_epoch(dataset, tmp_path) -> None:
    settings = {"dataloader_num_workers": 1, "save_steps": 7}  # where epochs end
    settings |= {"eval_strategy": "epoch"}
    undisturbed = train(dataset, tmp_path / "a", **settings)
    settings["dataloader_persistent_workers"] = True
    assert_equal(train(dataset, tmp_path / "b", **settings), undisturbed)
    assert_equal(train(dataset, tmp_path / "c", tmp_path / "b" / "checkpoint-14", **settings), undisturbed)


def test_a_resumed_run_may_have_other_workers(dataset, tmp_path, capsys) -> None:
    undisturbed = train(dataset, tmp_path, dataloader_num_workers=2)
    for workers in (0, 1):
        checkpoint = tmp_path / "checkpoint-8"
        resumed = train(dataset, tmp_path / str(workers), checkpoint, dataloader_num_workers=workers)
        assert_equal(resumed, undisturbed)
        assert "read fastest with --dataloader_num_workers 2" in capsys.readouterr().out
    other = train(dataset, tmp_path / "new", dataloader_num_workers=0)
    assert any(not torch.equal(tensor, other[name]) for name, tensor in undisturbed.items())


def test_a_run_does_not_go_on_with_other_shards_or_batches(dataset, tmp_path) -> None:
    train(dataset, tmp_path / "run", max_steps=5)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    with pytest.raises(UserError, match="as many processes and images of each as it was begun with: 1 x 16, not 1 x"):
        train(dataset, tmp_path / "other", checkpoint, per_device_train_batch_size=8, gradient_accumulation_steps=2)
    changed = tmp_path / "changed"
    shutil.copytree(dataset, changed)
    (changed / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match="of 69 images, are not those with which the run was begun, of 103"):
        train(changed, tmp_path / "third", checkpoint)


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2}, {"dataloader_drop_last": True}])
def test_steps_rates_and_images_are_those_of_a_run_without_streaming(dataset, tmp_path, settings) -> None:
    histories, seen = {}, {}
    for streaming in (False, True):
        # Batches that the 20 images fill: dataloader_drop_last leaves the rest out when evaluating too.
        settings |= {"lr_milestones": [1, 2], "max_eval_samples": 20, "per_device_eval_batch_size": 4}
        recipe = write_recipe(tmp_path, validation_fraction=0, **settings)
        output = tmp_path / f"output_{streaming}"
        result = finetune(str(recipe), dataset=str(dataset), output_dir=str(output), streaming=streaming)
        last = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        history = json.loads((last / "trainer_state.json").read_text())["log_history"]
        histories[streaming] = [(entry["step"], entry["epoch"], entry.get("learning_rate")) for entry in history]
        seen[streaming] = result.metrics["train_samples_per_second"] * result.metrics["train_runtime"]
        assert result.metrics["test_samples"] == 20 and result.metrics["test_accuracy"] > 0.8
        assert json.loads((output / "metrics.json").read_text())["splits"]["train"] == "train"
    assert histories[True] == histories[False]
    assert seen[True] == pytest.approx(seen[False], rel=0.01)


def test_tars_train_and_hold_out(tmp_path) -> None:
    folder = write_tars(tmp_path / "tars", "train", 120, 5)
    result = finetune(
        str(write_recipe(tmp_path)), dataset=str(folder), output_dir=str(tmp_path / "output"), streaming=True
    )
    assert result.metrics["eval_accuracy"] > 0.8 and "test_accuracy" not in result.metrics


def test_evaluate_streams_too(dataset, tmp_path, finished_run) -> None:
    """In the order of the split, however many workers there are."""
    stored = evaluate_model(str(finished_run), dataset=str(dataset), use_cpu=True)
    for workers in (0, 2):
        streamed = evaluate_model(
            str(finished_run),
            dataset=str(dataset),
            streaming=True,
            use_cpu=True,
            dataloader_num_workers=workers,
            per_device_eval_batch_size=4,
        )
        assert streamed.metrics["samples"] == 21
        assert np.array_equal(streamed.labels, stored.labels)
        assert np.array_equal(streamed.predictions, stored.predictions)
        np.testing.assert_allclose(streamed.losses, stored.losses, rtol=1e-4, atol=1e-5)


def test_a_frozen_backbone_is_streamed_without_features(dataset, tmp_path) -> None:
    recipe = write_recipe(tmp_path, freeze=["backbone"], num_train_epochs=1)
    result = finetune(str(recipe), dataset=str(dataset), output_dir=str(tmp_path / "output"), streaming=True)
    assert result.metrics["test_samples"] == 21


@pytest.mark.parametrize("head_init", ["probe", "class_means"])
def test_a_fitted_head_is_refused(dataset, tmp_path, head_init) -> None:
    with pytest.raises(UserError, match=f"head_init {head_init} needs images of every class at hand"):
        finetune(
            str(write_recipe(tmp_path, head_init=head_init)),
            dataset=str(dataset),
            output_dir=str(tmp_path / "output"),
            streaming=True,
        )


def test_a_loader_gives_every_process_as_many_batches(dataset, tmp_path) -> None:
    trainer = make_streaming_trainer(dataset, tmp_path)
    assert isinstance(trainer.train_dataset, StreamedBatches)
    for processes in (1, 2, 3, 5):
        args = type("Arguments", (), {
            "world_size": processes, "dataloader_num_workers": 2, "dataloader_drop_last": False, "order_seed": 1,
        })  # fmt: skip
        arrangement = arrange(103, 8, args, 40, is_training=True)
        assert arrangement.lanes == 2 * processes and arrangement.block_size == 20
        if processes > 1:
            assert arrangement.length % (8 * processes) == 0 and arrangement.length - 103 < 8 * processes
        args.dataloader_drop_last = True
        assert arrange(103, 8, args, 40, is_training=True).length == 103 // (8 * processes) * 8 * processes
