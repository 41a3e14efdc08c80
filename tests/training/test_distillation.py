"""A student that learns from a teacher: the formula, classes and sizes, kept logits, and a run that is resumed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForImageClassification, PreTrainedModel, ResNetForImageClassification

from hf_finetune import finetune
from hf_finetune.config.arguments import check_values
from hf_finetune.config.loss_keys import distillation_settings
from hf_finetune.config.recipe import Recipe
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.models.processor import Preprocessing
from hf_finetune.training.distillation import Teacher, learn_from_teacher
from hf_finetune.training.loss import BatchLoss
from tests.helpers.interrupting import StopAfterAStep
from tests.helpers.networks import CLASSES, SIDE, make_model, two_heads
from tests.helpers.tiny import write_recipe
from tests.helpers.trainers import make_trainer

SEES = Preprocessing(SIDE)


def teacher(weight: float = 0.25, temperature: float = 2.0, **changes: Any) -> Teacher:
    keys = {"class_ids": range(CLASSES), "sees": SEES, "student_sees": SEES, **changes}
    return Teacher(make_model("resnet"), temperature=temperature, weight=weight, **keys)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def images(side: int = SIDE) -> torch.Tensor:
    return torch.randn(6, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_hintons():
    taught, logits = teacher(), torch.randn(6, CLASSES)
    taught.current = taught.logits_of(images())
    labels = torch.tensor([0, 1, 2, 3, 0, -100])  # the last image could not be read
    soft, student = (torch.softmax(own.double() / 2, dim=1) for own in (taught.current, logits))
    divergence = 4 * (soft * (soft / student).log()).sum(dim=1)
    expected = (0.75 * cross_entropy(logits, labels.clamp(min=0)) + 0.25 * divergence)[:5].mean()
    loss = BatchLoss(cross_entropy).with_teacher(taught)
    whole = loss(SimpleNamespace(logits=logits), labels)
    assert whole.item() == pytest.approx(expected.item(), rel=1e-5)
    kept, parts = taught.current, []
    for half in (slice(0, 2), slice(2, 6)):  # of a global batch of 5 images that count
        taught.current = kept[half]
        parts.append(loss(SimpleNamespace(logits=logits[half]), labels[half], 5))
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)
    taught.current = None  # a batch of evaluation
    assert loss(SimpleNamespace(logits=logits), labels) == BatchLoss(cross_entropy)(
        SimpleNamespace(logits=logits), labels
    )


def test_it_answers_for_the_students_classes_and_sees_its_own_size_and_normalization():
    raw = 255 * torch.rand(2, 3, 32, 32)
    ours = Preprocessing(32, mean=(100.0, 110.0, 120.0), std=(60.0, 61.0, 62.0))
    theirs = Preprocessing(SIDE, mean=(10.0, 20.0, 30.0), std=(50.0, 40.0, 30.0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (ours.mean, ours.std))
    taught = teacher(class_ids=[2, 0, 3, 1], sees=theirs, student_sees=ours)
    found = taught.logits_of((raw - mean) / std)
    mean, std = (torch.tensor(values)[:, None, None] for values in (theirs.mean, theirs.std))
    small = functional.interpolate(raw, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = make_model("resnet").eval()(pixel_values=(small - mean) / std).logits[:, [2, 0, 3, 1]]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not found.requires_grad and not taught.model.training


def test_the_distillation_token_learns_from_the_teacher_and_the_class_token_from_labels():
    student = two_heads()
    for weight, learner, other in ((1.0, "distillation_classifier", "cls_classifier"),):
        taught = teacher(weight)
        taught.current = taught.logits_of(images())
        loss = BatchLoss(cross_entropy).with_teacher(taught)
        loss(student(pixel_values=images()), torch.zeros(6, dtype=torch.int64)).backward()
        assert student.get_submodule(learner).weight.grad.abs().max() > 1e-4
        assert not student.get_submodule(other).weight.grad.any()
    outputs = SimpleNamespace(
        logits=torch.zeros(6, CLASSES), cls_logits=torch.eye(6, CLASSES), distillation_logits=taught.current
    )
    labels = torch.arange(6) % CLASSES
    expected = 0.75 * cross_entropy(outputs.cls_logits, labels).mean()  # nothing is left to learn from the teacher
    taught.weight = 0.25
    assert loss(outputs, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def taught_trainer(folder: Path, base: str | PreTrainedModel, items: Any = (), **keys: Any) -> Any:
    trainer = make_trainer(folder, make_model("vit"), count=24, items=items, **keys)
    learn_from_teacher(trainer, base, [f"class {n}" for n in (3, 1, 0, 2)], items, trust_remote_code=False)
    return trainer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    model = make_model("resnet")
    model.config.id2label = {n: f"class {n}" for n in range(CLASSES)}
    model.config.label2id = {name: n for n, name in model.config.id2label.items()}
    model.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def test_logits_are_kept_where_nothing_is_random(
    tmp_path: Path, base: Path, datasets_cache: Path, logged: list[str], images_seen: list[int]
):
    keeps = taught_trainer(tmp_path / "keeps", str(base))
    assert any("Logits of the teacher: 24 images" in line for line in logged)
    rows = [5, 2, 24 + 7]  # the last is a repetition
    batch = keeps.train_dataset.__getitems__(rows)
    kept = batch["teacher_logits"]
    observer, images_seen[:] = keeps.device_stage.observer, []
    keeps.prepare_batch(batch)
    teacher = keeps.compute_loss_func.teacher
    assert torch.equal(teacher.current, kept) and not images_seen  # nothing is computed again
    batch = keeps.train_dataset.__getitems__(rows)
    del batch["teacher_logits"]
    keeps.prepare_batch(batch)
    torch.testing.assert_close(teacher.current, kept)
    again = taught_trainer(tmp_path / "again", ResNetForImageClassification.from_pretrained(base))
    assert any("Logits of the teacher: read from" in line for line in logged)
    assert torch.equal(again.train_dataset.__getitems__(rows)["teacher_logits"], kept)
    (file,) = (datasets_cache / "hf_finetune" / "features").glob("*.npy")
    damaged = bytearray(file.read_bytes())
    damaged[150] ^= 255
    file.write_bytes(damaged)
    taught_trainer(tmp_path / "third", str(base))
    assert any("are damaged" in line for line in logged)
    assert observer is not None and len(np.load(file)) == 24


def test_logits_are_computed_where_images_are_random_or_mixed(tmp_path: Path, base: Path, datasets_cache: Path):
    items = ({"RandomCrop": {"size": SIDE, "padding": 2}}, {"MixUp": {"alpha": 1.0}})
    trainer = taught_trainer(
        tmp_path / "run", str(base), items, max_steps=2, distillation={"weight": 1, "temperature": 1}
    )
    assert "teacher_logits" not in trainer.train_dataset.__getitems__([0, 1])
    trainer.device_stage.num_labels = CLASSES
    trainer.train()
    assert not list(datasets_cache.rglob("*.npy"))
    inputs = trainer.prepare_batch(trainer.train_dataset.__getitems__(range(8)))
    assert inputs["labels"].is_floating_point()
    teacher = trainer.compute_loss_func.teacher
    torch.testing.assert_close(teacher.current, teacher.logits_of(inputs["pixel_values"]))


def test_a_run_is_resumed_to_the_bit_and_a_frozen_backbone_sees_images(
    image_folder: Path, finished_run: Path, tmp_path: Path, datasets_cache: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = str(write_recipe(tmp_path, train_transforms=[], num_train_epochs=2, teacher=str(finished_run)))

    def run(folder: Path, **more: Any) -> dict[str, torch.Tensor]:
        finetune(recipe, dataset=str(image_folder), output_dir=str(folder), **more)
        return load_file(folder / "model.safetensors")

    whole = run(tmp_path / "whole")
    assert "Teacher: " in capsys.readouterr().out
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", callbacks=[StopAfterAStep()])
    resumed = run(tmp_path / "stopped")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    frozen = run(tmp_path / "frozen", model=str(finished_run), freeze=["backbone"])
    assert "read from" in capsys.readouterr().out and frozen.keys() == whole.keys()


@pytest.mark.slow
def test_an_object_teaches_as_its_folder_does_and_is_left_as_it_is(
    image_folder: Path, finished_run: Path, tmp_path: Path, datasets_cache: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = str(write_recipe(tmp_path, train_transforms=[], num_train_epochs=2, teacher="another"))
    network = AutoModelForImageClassification.from_pretrained(finished_run)
    network.train()

    def run(name: str, **more: Any) -> dict[str, torch.Tensor]:
        finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / name), **more)
        return load_file(tmp_path / name / "model.safetensors")

    named = run("named", teacher=finished_run)
    with pytest.raises(Interrupted):
        run("object", teacher=network, callbacks=[StopAfterAStep()])
    capsys.readouterr()
    other = AutoModelForImageClassification.from_pretrained(finished_run)
    torch.nn.init.ones_(other.classifier[-1].bias)
    with pytest.raises(UserError, match=r"begun with teacher: ResNetForImageClassification, .* SHA-256 [0-9a-f]{12};"):
        run("object", teacher=other)
    given = run("object", teacher=network)
    assert all(torch.equal(given[key], tensor) for key, tensor in named.items())
    out = capsys.readouterr().out
    assert "Note: the teacher is shown 16x16 pixels, normalized with the figures of the checkpoint that" in out
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    written = (tmp_path / "object" / "recipe.yaml").read_text()
    assert "\n# teacher: ResNetForImageClassification, " in written and "\nteacher:" not in written
    assert "# teacher: ResNetForIm" in (tmp_path / "object" / "README.md").read_text()
    run("itself", model=network, teacher=network)  # it learns from what it was
    assert "# model: ResNetForIm" in (tmp_path / "itself" / "recipe.yaml").read_text()


def test_mistakes_are_one_line(tmp_path: Path, base: Path):
    trainer = make_trainer(tmp_path, make_model("vit"))
    with pytest.raises(UserError, match=r"^teacher .*: The model does not know 1 of the dataset's classes: cat"):
        learn_from_teacher(trainer, str(base), ["class 1", "cat"], (), trust_remote_code=False)
    nameless = make_model("resnet")
    with pytest.raises(UserError, match=r"^teacher ResNetForIm.* no names .*; name them in id2label of its config"):
        learn_from_teacher(trainer, nameless, ["cat"], (), trust_remote_code=False)
    nameless.config.problem_type = "multi_label_classification"
    with pytest.raises(UserError, match="^teacher ResNetForImageClassification: it gives an image several labels"):
        learn_from_teacher(trainer, nameless, ["LABEL_0"], (), trust_remote_code=False)
    for wrong, line in (
        (7, "teacher is int; use a name"),
        (make_model("resnet").resnet, "teacher is ResNetModel, which"),
    ):
        with pytest.raises(UserError, match=line):
            finetune("digits", teacher=wrong)  # type: ignore[arg-type]
    trainer.compute_loss_func = BatchLoss(cross_entropy, several=True)
    with pytest.raises(UserError, match="teacher is for one class an image"):
        learn_from_teacher(trainer, str(base), ["class 1"], (), trust_remote_code=False)
    with pytest.raises(UserError, match="distillation says how to learn from a teacher"):
        finetune("digits", distillation={"weight": 0.5}, output_dir=tmp_path / "run")
    with pytest.raises(UserError, match="distillation says how to learn from a teacher"):
        check_values(Recipe("flags", {"distillation": {"weight": 0.5}}, {"distillation": "--distillation"}))
    for stated, line in (
        ({"temprature": 2}, 'no setting "temprature". Did you mean "temperature"'),
        ({"weight": 1.5}, "weight is 1.5; use a number above 0 and at most 1, such as 0.5"),
        ({"temperature": 0}, "temperature is 0; use a number above 0, such as 3"),
    ):
        with pytest.raises(UserError, match=line):
            distillation_settings(stated)
    assert distillation_settings(None) == (3, 0.5)
