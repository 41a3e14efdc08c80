"""The tutorial's recipe, `resnet50_cifar10`: its schedule over 200 epochs, and a few real steps of a real ResNet-50."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, ResNetConfig, ResNetForImageClassification

from hf_finetune.cli.main import main
from hf_finetune.config.arguments import argument_fields, build_arguments
from hf_finetune.config.recipe import load_recipe, override
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.01), (14, 0.01), (15, 0.001), (199, 0.001)])
def test_the_schedule_over_200_epochs(tmp_path, epoch, rate):
    recipe = override(load_recipe("resnet50_cifar10", argument_fields()), {"use_cpu": True})
    _, _, args = build_arguments(recipe)
    assert args.num_train_epochs == 200 and args.per_device_train_batch_size == 128
    settings = {
        name: getattr(args, name) for name in ("learning_rate", "lr_milestones", "lr_gamma", "num_train_epochs")
    }
    trainer = make_trainer(tmp_path, make_model("resnet"), count=300, global_batch_size=128, **settings)
    *_, max_steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert max_steps == 200 * 3  # 300 images are 3 batches of 128, the last one short
    schedule = trainer.create_scheduler(max_steps, trainer.create_optimizer())
    for step in (3 * epoch, 3 * epoch + 2):  # the first and the last step of the epoch
        assert settings["learning_rate"] * schedule.lr_lambdas[0](step) == pytest.approx(rate)


def test_a_few_steps_from_a_checkpoint_of_1000_classes(tmp_path, capsys):
    torch.manual_seed(0)
    checkpoint = tmp_path / "resnet-50"
    ResNetForImageClassification(ResNetConfig(num_labels=1000)).save_pretrained(checkpoint)
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 1)):
        for label in CLASSES:
            folder = tmp_path / "cifar10" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    output = tmp_path / "output"
    words = ["train", "--recipe", "resnet50_cifar10", "--model_name_or_path", str(checkpoint)]
    words += ["--dataset_path", str(tmp_path / "cifar10"), "--output_dir", str(output), "--use_cpu", "--disable_tqdm"]
    words += ["--global_batch_size", "4", "--max_steps", "2", "--max_eval_samples", "4", "--eval_strategy", "steps"]
    words += ["--eval_steps", "2", "--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1"]
    words += ["--learning_rate", "1e-5"]  # random weights in place of pretrained ones have steep gradients
    assert main(words) == 0
    assert "318 tensors reused, 2 of the head initialized for 10 classes" in capsys.readouterr().out
    before, after = load_file(checkpoint / "model.safetensors"), load_file(output / "model.safetensors")
    assert after["classifier.1.weight"].shape == (10, 2048) and before["classifier.1.weight"].shape == (1000, 2048)
    kernel = "resnet.embedder.embedder.convolution.weight"
    change = (after[kernel] - before[kernel]).abs().max()
    assert 0 < change < 1e-2  # two steps from the pretrained weights, not from others
    processor = AutoImageProcessor.from_pretrained(output)
    assert [255 * value for value in processor.image_mean] == pytest.approx([125.307, 122.961, 113.8575])
    assert [255 * value for value in processor.image_std] == pytest.approx([51.5865, 50.847, 51.255])
    assert processor(PIL.Image.new("RGB", (32, 32)), return_tensors="pt")["pixel_values"].shape == (1, 3, 224, 224)
    assert json.loads((Path(output) / "config.json").read_text())["id2label"]["9"] == "truck"
