"""The Trainer's promises: one gradient for one batch, the best checkpoint whole, the schedule, broken losses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from hf_finetune.errors import UserError
from hf_finetune.training.sanity_check import sanity_check
from tests.helpers.fake_cuda import pretend_several_gpus
from tests.helpers.networks import CLASSES, SIDE, hold_batch_norm, make_model
from tests.helpers.trainers import PROCESSOR, make_dataset, make_trainer


@pytest.mark.parametrize("family", ["resnet", "vit", "convnext"])
def test_one_global_batch_gives_one_gradient_however_it_is_made(tmp_path, family):
    weights = {}
    for accumulation in (1, 2, 4):
        model = make_model(family)
        hold_batch_norm(model)
        trainer = make_trainer(
            tmp_path / str(accumulation),
            model,
            max_steps=1,
            gradient_accumulation_steps=accumulation,
            momentum=0.0,
            learning_rate=1.0,
            weight_decay=0.0,
            label_smoothing_factor=0.1,
            lr_scheduler_type="constant",
        )
        assert trainer.args.per_device_train_batch_size == 16 // accumulation
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        trainer.train()
        # With plain SGD at rate 1, one step moves the weights by exactly the gradient.
        weights[accumulation] = {name: before[name] - parameter for name, parameter in model.named_parameters()}
    assert max(gradient.abs().max() for gradient in weights[1].values()) > 1e-3
    for accumulation in (2, 4):
        for name, gradient in weights[1].items():
            torch.testing.assert_close(weights[accumulation][name], gradient, atol=1e-6, rtol=0)


def test_several_gpus_without_a_launcher_do_not_multiply_the_loss(tmp_path, monkeypatch):
    losses = {}
    for count in (1, 4):
        pretend_several_gpus(monkeypatch, count)
        trainer = make_trainer(tmp_path / str(count), make_model("resnet"), max_steps=2)
        trainer.train()
        losses[count] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert not isinstance(trainer.model_wrapped, torch.nn.DataParallel)
    assert losses[4] == losses[1] and len(losses[1]) == 2


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_the_best_checkpoint_is_reloaded_whole(tmp_path, family):
    trainer = make_trainer(
        tmp_path,
        make_model(family),
        num_train_epochs=3,
        learning_rate=0.05,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        save_total_limit=2,
    )
    scores = iter([0.2, 0.9, 0.4])  # epoch 2 of 3 is the best, so the weights at the end are not the best ones
    trainer.compute_metrics = lambda prediction: {"accuracy": next(scores)}
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == "checkpoint-8"
    saved = type(trainer.model).from_pretrained(best).state_dict()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
    last = type(trainer.model).from_pretrained(tmp_path / "checkpoint-12").state_dict()
    assert any(not torch.equal(last[name], saved[name]) for name in saved)


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path, family):
    settings = {"num_train_epochs": 3, "learning_rate": 0.05, "save_strategy": "steps", "save_steps": 6}
    items = ({"RandomCrop": {"size": SIDE, "padding": 2}}, "RandomHorizontalFlip")
    whole = make_trainer(tmp_path / "whole", make_model(family), items=items, **settings)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", make_model(family), items=items, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    for (name, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_milestones_are_epochs_whatever_the_accumulation(tmp_path, accumulation):
    trainer = make_trainer(
        tmp_path,
        make_model("resnet"),
        num_train_epochs=3,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.01,
        lr_milestones=[1.0, 2.0],
    )
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    # The rate that is logged is the one of the next step, so the fall shows one line early.
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 4 + [0.0001] * 4)


def test_a_broken_loss_stops_with_its_step_and_leaves_no_broken_checkpoint(tmp_path):
    trainer = make_trainer(
        tmp_path, make_model("resnet"), num_train_epochs=3, learning_rate=1e30, save_strategy="steps", save_steps=1
    )
    with pytest.raises(UserError, match=r"The loss is not finite at step \d+ .*lower --learning_rate"):
        trainer.train()
    for checkpoint in tmp_path.glob("checkpoint-*"):
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert all(np.isfinite(entry["loss"]) for entry in state["log_history"] if "loss" in entry)


def test_evaluation_loss_is_the_mean_over_images_and_the_figures_are_right(tmp_path):
    model = make_model("resnet")
    trainer = make_trainer(tmp_path, model, per_device_eval_batch_size=8)  # 20 images: batches of 8, 8 and 4
    metrics = trainer.evaluate()
    pixels = torch.stack(
        [
            PROCESSOR(PIL.Image.open(io.BytesIO(row["bytes"])), return_tensors="pt")["pixel_values"][0]
            for row in make_dataset(20)["image"]
        ]
    )
    labels = torch.arange(20) % CLASSES
    with torch.no_grad():
        logits = model.eval()(pixels).logits
    assert metrics["eval_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())
    assert metrics["eval_samples"] == 20


def test_bfloat16_trains_and_evaluates_in_float32(tmp_path):
    trainer = make_trainer(tmp_path, make_model("resnet"), max_steps=4, bf16=True, learning_rate=0.05)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4 and np.isfinite(losses).all() and losses[-1] < losses[0]
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_gradient_clipping_is_off_unless_asked_for(tmp_path):
    steps = {}
    for limit in (0.0, 1e-3):
        model = make_model("resnet")
        before = model.classifier[1].weight.detach().clone()
        settings = {"max_steps": 1, "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
        make_trainer(tmp_path / str(limit), model, max_grad_norm=limit, **settings).train()
        steps[limit] = (model.classifier[1].weight - before).norm().item()
    assert steps[0.0] > 0.05 and steps[1e-3] < 1.1e-3


def test_weight_decay_leaves_norms_and_biases_alone_on_request(tmp_path):
    for decay_all in (True, False):
        trainer = make_trainer(tmp_path, make_model("resnet"), decay_norm_and_bias=decay_all, weight_decay=0.1)
        groups = trainer.create_optimizer().param_groups
        decayed = {id(parameter) for group in groups if group["weight_decay"] > 0 for parameter in group["params"]}
        for name, parameter in trainer.model.named_parameters():
            assert (id(parameter) in decayed) == (decay_all or parameter.ndim > 1), name


def test_an_evaluation_counts_every_image_whatever_training_drops(tmp_path):
    for batch in (16, 64):  # of 20 images
        settings = {"dataloader_drop_last": True, "per_device_eval_batch_size": batch}
        trainer = make_trainer(tmp_path / str(batch), make_model("resnet"), count=40, max_steps=2, **settings)
        assert len(trainer.predict(trainer.eval_dataset).label_ids) == 20
        assert len(trainer.get_train_dataloader()) == 2 and trainer.args.dataloader_drop_last


def test_named_parameters_are_not_decayed_and_a_name_of_none_is_told(tmp_path, capsys):
    trainer = make_trainer(tmp_path, make_model("vit"), no_decay=["cls_token", "position_embeddings", "positions"])
    sanity_check(trainer)
    parameters = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    left_out = {
        parameters[id(parameter)]
        for group in trainer.create_optimizer().param_groups
        if group["weight_decay"] == 0
        for parameter in group["params"]
    }
    assert left_out == {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    assert "Note: no_decay: no parameter is called positions." in capsys.readouterr().out


def test_sgd_is_the_recipes_and_other_optimizers_are_the_stock_ones(tmp_path):
    trainer = make_trainer(tmp_path, make_model("resnet"), momentum=0.8, nesterov=True, learning_rate=0.3)
    group = trainer.create_optimizer().param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.3, 0.8, True)
    other = make_trainer(tmp_path, make_model("resnet"), optim="adamw_torch", learning_rate=0.3)
    assert isinstance(other.create_optimizer(), torch.optim.AdamW)


def test_a_saved_folder_holds_no_pickle_of_arguments(tmp_path):
    trainer = make_trainer(tmp_path, make_model("resnet"), max_steps=1)
    trainer.train()
    trainer.save_model()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert load_file(tmp_path / "model.safetensors")
