"""The dry run before the first step: batches of every size that will occur, and a last image that is alone."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from hf_finetune.cli.main import main
from hf_finetune.errors import UserError
from hf_finetune.models.freeze import freeze_modules
from hf_finetune.training.sanity_check import sanity_check
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.launched import run_in
from tests.helpers.networks import deep_resnet, make_model
from tests.helpers.processes import REPOSITORY
from tests.helpers.streamed import write_parquet
from tests.helpers.streamed_run import make_streaming_trainer
from tests.helpers.tiny import write_recipe
from tests.helpers.trainers import make_trainer

JOINS = "leave one image alone; it joins the batch before it, because BatchNorm cannot compute with one."


def batches_of_an_epoch(trainer: ImageClassificationTrainer) -> list[list[int]]:
    """Rows of each batch of the training loader."""
    return [batch["sample_index"].tolist() for batch in trainer.get_train_dataloader()]


def checked(folder: Path, model: PreTrainedModel, count: int, **settings: object) -> ImageClassificationTrainer:
    trainer = make_trainer(folder, model, count=count, **settings)
    sanity_check(trainer)
    return trainer


@pytest.mark.parametrize(
    ("count", "settings", "sizes"),
    [
        (33, {}, [16, 17]),
        (17, {}, [17]),
        (33, {"gradient_accumulation_steps": 4}, [4] * 7 + [5]),
        (33, {"train_sampling_strategy": "sequential"}, [16, 17]),
        (33, {"dataloader_num_workers": 2}, [16, 17]),
    ],
)
def test_a_lone_last_image_joins_the_batch_before_it(tmp_path, capsys, count, settings, sizes):
    trainer = checked(tmp_path, deep_resnet(), count, num_train_epochs=2, **settings)
    size = trainer.args.per_device_train_batch_size
    assert f"Note: {count} images in batches of {size} {JOINS}" in capsys.readouterr().out
    rows = batches_of_an_epoch(trainer)
    assert [len(batch) for batch in rows] == sizes and sorted(chain(*rows)) == list(range(count))
    trainer.train()
    assert trainer.state.global_step == 2 * -(-len(sizes) // trainer.args.gradient_accumulation_steps)


@pytest.mark.parametrize(
    ("make", "count", "settings", "sizes"),
    [
        (deep_resnet, 34, {}, [16, 16, 2]),
        (deep_resnet, 33, {"dataloader_drop_last": True}, [16, 16]),
        (lambda: make_model("resnet"), 33, {}, [16, 16, 1]),  # its last features are 2 x 2 pixels: one image will do
        (lambda: make_model("vit"), 33, {}, [16, 16, 1]),
        (lambda: make_model("vit"), 3, {"global_batch_size": 1}, [1, 1, 1]),
    ],
)
def test_other_batches_stay_as_they_are(tmp_path, capsys, make, count, settings, sizes):
    trainer = checked(tmp_path, make(), count, **settings)
    assert "alone" not in capsys.readouterr().out
    assert [len(batch) for batch in batches_of_an_epoch(trainer)] == sizes


def test_a_frozen_batch_norm_takes_one_image(tmp_path, capsys):
    model = deep_resnet()
    freeze_modules(model, ["backbone"])
    trainer = checked(tmp_path, model, 17, num_train_epochs=1)
    trainer.train()
    assert trainer.state.global_step == 2 and "alone" not in capsys.readouterr().out


def test_the_loss_of_a_joined_batch_is_the_mean_of_its_images(tmp_path):
    trainer = checked(
        tmp_path, deep_resnet(), 17, max_steps=1, gradient_accumulation_steps=2, label_smoothing_factor=0.1
    )
    compute, seen = trainer.compute_loss_func, []

    def spy(outputs, labels, num_items_in_batch=None):
        loss = compute(outputs, labels, num_items_in_batch)
        losses = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="none", label_smoothing=0.1)
        seen.append((len(labels), int(num_items_in_batch), float(losses.sum().detach())))
        return loss

    trainer.compute_loss_func = spy
    trainer.train()
    assert [one[:2] for one in seen] == [(8, 17), (9, 17)]
    assert trainer.state.log_history[0]["loss"] == pytest.approx(sum(one[2] for one in seen) / 17, rel=1e-5)


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (1, {}, "BatchNorm, which cannot compute with the one training image; add images."),
        (9, {"global_batch_size": 1}, "cannot compute with one image at a time; use --global_batch_size 2 or more, or"),
        (9, {"per_device_train_batch_size": 1}, "one image at a time; use --per_device_train_batch_size 2 or more, or"),
    ],
)
def test_batches_of_one_image_are_refused_for_batch_norm(tmp_path, count, settings, message):
    with pytest.raises(UserError, match="^ResNetForImageClassification has BatchNorm") as refused:
        checked(tmp_path, deep_resnet(), count, **settings)
    assert message in str(refused.value)


def test_a_resumed_run_joins_the_same_image(tmp_path):
    settings = {"num_train_epochs": 3, "learning_rate": 0.05, "save_strategy": "steps", "save_steps": 3}
    whole = checked(tmp_path / "whole", deep_resnet(), 33, **settings)
    whole.train()
    resumed = checked(tmp_path / "resumed", deep_resnet(), 33, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.state.global_step == whole.state.global_step == 6
    for (name, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("workers", [0, 2])
def test_the_lone_image_of_a_stream_joins_too(tmp_path, workers):
    dataset = write_parquet(tmp_path / "data", "train", 33, files=3, row_group=9)
    trainer = make_streaming_trainer(
        write_parquet(dataset, "test", 5), tmp_path / "run", dataloader_num_workers=workers
    )
    trainer.joins_lone_image = True
    rows = batches_of_an_epoch(trainer)
    assert [len(batch) for batch in rows] == [16, 17] and sorted(chain(*rows)) == list(range(33))


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_the_check_leaves_weights_statistics_and_random_numbers_as_they_are(tmp_path, family):
    model = make_model(family)
    trainer = make_trainer(tmp_path, model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    sanity_check(trainer)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_fails_in_training_mode_alone_is_told_before_the_first_step(tmp_path):
    model = make_model("resnet")

    def forward(*args, **kwargs):
        raise RuntimeError("only in training")

    trainer = make_trainer(tmp_path, model)
    usual = type(model).forward
    model.forward = lambda **kwargs: forward() if model.training else usual(model, **kwargs)
    with pytest.raises(UserError, match="A training batch of 2 images does not go through ResNet.*only in training"):
        sanity_check(trainer)


DEEP = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1] * 4, "layer_type": "basic"}


def test_two_processes_fill_up_and_refuse_one_image_each(image_folder, tmp_path, capsys):
    """Of 65 training images in batches of 8 for two processes, the last batch would be one image for one of them."""
    for batch in (16, 2):
        recipe = write_recipe(tmp_path, model_config=DEEP, global_batch_size=batch, num_train_epochs=1)
        output = tmp_path / f"output_{batch}"
        words = ["--recipe", recipe, "--dataset", image_folder, "--output_dir", output]
        completed = run_in(2, REPOSITORY / "scripts" / "run_finetune.py", *words)
        if batch == 2:
            assert completed.returncode != 0 and not any(output.glob("*"))
            line = "hf-finetune: error: ResNetForImageClassification has BatchNorm, which cannot compute with one"
            assert completed.stderr.count(line) == 1 and "--global_batch_size 4 or more" in completed.stderr
        else:
            assert completed.returncode == 0, completed.stderr[-2000:]
            assert JOINS not in completed.stdout
    recipe = write_recipe(tmp_path, model_config=DEEP, num_train_epochs=1)  # the same batches of 16, in one process
    words = ["--recipe", recipe, "--dataset", image_folder, "--output_dir", tmp_path / "one"]
    assert main(["train", *map(str, words)]) == 0
    assert JOINS in capsys.readouterr().out
