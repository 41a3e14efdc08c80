"""The two stages: the same images whoever loads them, and evaluation exactly as the image processor has it."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import BitImageProcessor, ViTImageProcessor

from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.collate import pass_on
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.data.transforms.build import build_train_transforms
from tests.helpers.trainers import make_dataset

ITEMS = ["RandAugment", {"RandomCrop": {"size": 16, "padding": 2}}, "RandomHorizontalFlip"]
OF_IMAGES = ["AugMix"]  # works on single images, in the workers


def load_epoch(workers: int, epoch: int, batch_size: int = 8) -> torch.Tensor:
    transforms = build_train_transforms(ITEMS, uniform=True)
    stage = TrainingStage(transforms, seed=3)
    dataset = ImageBatches(make_dataset(40), stage)
    stage.set_epoch(epoch)
    device_stage = DeviceStage(BitImageProcessor(), True, transforms, mean=(100.0,) * 3, std=(50.0,) * 3)
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, collate_fn=pass_on)
    return torch.cat([device_stage(batch)["pixel_values"] for batch in loader])


def test_workers_and_batch_size_change_nothing():
    reference = load_epoch(workers=0, epoch=1)
    assert torch.equal(reference, load_epoch(workers=2, epoch=1))
    assert torch.equal(reference, load_epoch(workers=0, epoch=1, batch_size=40))
    assert (reference != load_epoch(workers=0, epoch=2)).flatten(1).any(1).float().mean() > 0.9


def test_a_repetition_of_a_row_is_the_same_image_with_other_draws():
    transforms = build_train_transforms(OF_IMAGES, uniform=True)
    dataset = ImageBatches(make_dataset(40), TrainingStage(transforms, seed=3))
    once, again = (dataset.__getitems__([row + 40 * times for row in range(40)]) for times in (0, 2))
    assert torch.equal(once["sample_index"], again["sample_index"]) and torch.equal(once["labels"], again["labels"])
    assert not set(once["draw_keys"].tolist()) & set(again["draw_keys"].tolist())
    assert (once["pixel_values"] != again["pixel_values"]).flatten(1).any(1).float().mean() > 0.9
    plain = ImageBatches(make_dataset(40), TrainingStage(build_train_transforms([], uniform=True), seed=3))
    assert torch.equal(plain.__getitems__([3, 43])["pixel_values"][0], plain.__getitems__([83])["pixel_values"][0])


def test_persistent_workers_see_the_epoch_change():
    transforms = build_train_transforms(OF_IMAGES, uniform=True)
    stage = TrainingStage(transforms, seed=3)
    dataset = ImageBatches(make_dataset(16), stage)
    loader = DataLoader(dataset, batch_size=16, num_workers=1, persistent_workers=True, collate_fn=pass_on)
    epochs = []
    for epoch in (0, 1):
        stage.set_epoch(epoch)
        epochs.append(next(iter(loader))["pixel_values"])
    stage.set_epoch(1)
    again = dataset.__getitems__(range(16))["pixel_values"]
    assert not torch.equal(epochs[0], epochs[1]) and torch.equal(epochs[1], again)


def test_a_batch_is_uint8_and_channels_last():
    stage = TrainingStage(build_train_transforms([], uniform=True), seed=0)
    batch = ImageBatches(make_dataset(4), stage).__getitems__([0, 1, 2, 3])
    assert batch["pixel_values"].dtype == torch.uint8 and batch["pixel_values"].shape == (4, 3, 16, 16)
    assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert batch["labels"].tolist() == [0, 1, 2, 3] and batch["draw_keys"].dtype == torch.int64


def test_training_is_normalized_in_pixel_units():
    transforms = build_train_transforms([], uniform=True)
    device_stage = DeviceStage(BitImageProcessor(), True, transforms, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    images, zero = torch.full((1, 3, 4, 4), 50, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    result = device_stage({"pixel_values": images, "labels": zero, "draw_keys": zero})["pixel_values"]
    assert result[0, :, 0, 0].tolist() == pytest.approx([20.0, 7.5, 4.0])
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize(
    "processor",
    [
        BitImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 12, "width": 12}),
        ViTImageProcessor(size={"height": 24, "width": 24}),
    ],
)
def test_evaluation_is_the_image_processor(uniform, processor):
    generator = np.random.default_rng(0)
    shapes = [(30, 40)] * 4 if uniform else [(30, 40), (50, 22), (30, 40), (64, 64)]
    images = [PIL.Image.fromarray(generator.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]
    batch = EvaluationStage(processor, uniform)({"image": images, "label": [0, 1, 2, 3]})
    assert batch["pixel_values"].dtype == torch.uint8
    batch = DeviceStage(processor, uniform)(batch)
    expected = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in images])
    assert torch.equal(batch["pixel_values"], expected)


def test_classes_are_renumbered_for_a_model_with_another_order():
    image = PIL.Image.new("RGB", (16, 16))
    rows = EvaluationStage(BitImageProcessor(), True, class_ids=[2, 0, 1])({"image": [image] * 3, "label": [0, 1, 2]})
    assert rows["labels"].tolist() == [2, 0, 1]
