"""A step on a GPU mixes no devices, makes the CPU wait for nothing and copies nothing from the host.

The backward pass is left out: torch's autograd engine looks for a real device. Gradients are made up instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_finetune.data.device import DeviceStage
from hf_finetune.data.transforms import mixing
from hf_finetune.data.transforms.batch import BATCH_TRANSFORMS
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.evaluation.metrics import reduce_logits
from hf_finetune.training.extensions.ema import AveragedWeights
from hf_finetune.training.extensions.non_finite import NonFiniteLosses
from hf_finetune.training.loss import BatchLoss, classification_loss
from tests.helpers.fake_cuda import fake_cuda
from tests.helpers.stub_loop import StubLoop, call

CLASSES, BATCH, SIDE = 10, 8, 32
TRANSFORMS: dict[str, list[Any]] = {
    "flips": ["RandomHorizontalFlip", "RandomVerticalFlip"],
    "alternating flips": ["AlternatingHorizontalFlip"],
    "crop": [{"RandomCrop": {"size": 32, "padding": 4}}],
    "crop, one fill": [{"RandomCrop": {"size": 32, "padding": 4, "fill": 7}}],
    "crop, a fill for each channel": [{"RandomCrop": {"size": 32, "padding": 4, "fill": [1, 2, 3]}}],
    "crop, pad_if_needed": [{"RandomCrop": {"size": 40, "pad_if_needed": True}}],
    "crop, reflected": [{"RandomCrop": {"size": 32, "padding": 4, "padding_mode": "reflect"}}],
    "resized crop": [{"RandomResizedCrop": {"size": 32}}],
    "resized crop, bicubic": [{"RandomResizedCrop": {"size": 32, "interpolation": "bicubic"}}],
    "erasing": [{"RandomErasing": {"p": 0.5}}],
    "erasing, a value for each channel": [{"RandomErasing": {"p": 0.5, "value": [1, 2, 3]}}],
    "erasing, noise": [{"RandomErasing": {"p": 0.5, "value": "random"}}],
    "grids": [{"GridMask": {"p": 0.5, "fill": [1, 2, 3]}}],
    "letterbox": [{"Letterbox": {"size": [48, 40]}}],
    "letterbox, a fill for each channel": [{"Letterbox": {"size": [40, 48], "fill": [1, 2, 3]}}],
    "resize and centre crop": [{"Resize": {"size": 40}}, {"CenterCrop": {"size": 32}}],
    "colours": [{"ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}}],
    "levels": [
        "RandomGrayscale",
        "RandomInvert",
        {"RandomPosterize": {"bits": 3}},
        {"RandomSolarize": {"threshold": 9}},
    ],
    "histograms": ["RandomAutocontrast", "RandomEqualize"],
    "blur": [{"GaussianBlur": {"kernel_size": 5}}, {"RandomAdjustSharpness": {"sharpness_factor": 2}}],
    "rotation and affine": [{"RandomRotation": {"degrees": 30}}, {"RandomAffine": {"degrees": 9, "fill": [1, 2, 3]}}],
    "perspective": ["RandomPerspective"],
    "policies": ["RandAugment", "TrivialAugmentWide", "AutoAugment", "IncreasingRandAugment"],
    "policies, bilinear": [{"RandAugment": {"interpolation": "bilinear", "fill": 128}}],
    "MixUp": [{"MixUp": {"alpha": 0.2}}],
    "CutMix": [{"CutMix": {"alpha": 1.0}}],
    "one of MixUp and CutMix": [{"RandomChoice": {"transforms": [{"MixUp": {"alpha": 0.2}}, {"CutMix": {}}]}}],
}


def batch_on_gpu(training: bool = True) -> dict[str, torch.Tensor]:
    images = torch.empty(BATCH, 3, SIDE, SIDE, dtype=torch.uint8, device="cuda")
    keys = ("labels", "draw_keys", "sample_index") if training else ("labels",)
    return {"pixel_values": images} | {key: torch.empty(BATCH, dtype=torch.int64, device="cuda") for key in keys}


def stage_of(items: list[Any]) -> DeviceStage:
    processor = ConvNextImageProcessor(size={"shortest_edge": SIDE}, do_resize=False)
    mean = std = (120.0, 120.0, 120.0)
    return DeviceStage(processor, True, build_train_transforms(items, True), mean, std, CLASSES)


def make_fake(stage: DeviceStage) -> None:
    stage.scale, stage.offset = torch.empty(3), torch.empty(3)


@pytest.fixture
def autocast_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let autocast choose dtypes on fake tensors; without a GPU it would turn itself off."""
    monkeypatch.setattr(torch.amp.autocast_mode.torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


@pytest.fixture(autouse=True)
def quantiles_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the table of quantiles, which is copied to the device once in a run."""
    monkeypatch.setattr(mixing, "beta_quantiles", lambda alpha, device: torch.empty(4097, device=device))


@pytest.mark.parametrize("items", TRANSFORMS.values(), ids=TRANSFORMS)
def test_training_batch_stays_on_the_device(items: list[Any]) -> None:
    stage = stage_of(items)
    with fake_cuda() as crossings:
        make_fake(stage)
        stage(batch_on_gpu())
        crossings.seen.clear()  # what the first batch copies stays there
        batch = stage(batch_on_gpu())
    assert crossings.seen == []
    assert {tensor.device.type for tensor in batch.values()} == {"cuda"}
    assert batch["pixel_values"].dtype == torch.float32


def test_every_batch_transform_is_tried() -> None:
    assert all(any(name in str(items) for items in TRANSFORMS.values()) for name in BATCH_TRANSFORMS)
    assert all(any(name in str(items) for items in TRANSFORMS.values()) for name in mixing.MIXING_TRANSFORMS)


def test_evaluation_batch_stays_on_the_device() -> None:
    stage = stage_of([])
    with fake_cuda() as crossings:
        make_fake(stage)
        stage(batch_on_gpu(training=False))
        crossings.seen.clear()
        batch = stage(batch_on_gpu(training=False))
        reduced = reduce_logits(torch.empty(BATCH, CLASSES, device="cuda"), batch["labels"])
    assert crossings.seen == []
    assert {tensor.device.type for tensor in reduced} == {"cuda"}


def resnet() -> nn.Module:
    return ResNetForImageClassification(
        ResNetConfig(num_labels=CLASSES, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    )


def vit() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(num_labels=CLASSES, image_size=SIDE, patch_size=8, **sizes))


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross entropy": classification_loss(0.0),
    "label smoothing": classification_loss(0.1),
    **{name: classification_loss(0.1, name) for name in ("bce", "focal", "asymmetric")},
    "given": BatchLoss(nn.CrossEntropyLoss(reduction="none")),
}


@pytest.mark.parametrize("mixed", (False, True), ids=("class ids", "mixed labels"))
@pytest.mark.parametrize("loss_function", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", (None, torch.bfloat16, torch.float16), ids=("float32", "bf16", "fp16"))
@pytest.mark.parametrize("network", (resnet, vit))
@pytest.mark.usefixtures("autocast_without_gpu")
def test_step_stays_on_the_device(
    network: Callable[[], nn.Module], dtype: torch.dtype | None, loss_function: Callable[..., torch.Tensor], mixed: bool
) -> None:
    model = network()
    with fake_cuda() as crossings:
        model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        loop = StubLoop(model)
        loop.accelerator.device = torch.device("cuda")
        average, watch = AveragedWeights(0.99), NonFiniteLosses(0, str)
        for extension in (average, watch):
            extension.attach(loop)
        call(average, "train_begin")
        for _ in range(2):
            crossings.seen.clear()
            images = torch.empty(BATCH, 3, SIDE, SIDE, device="cuda").contiguous(memory_format=torch.channels_last)
            labels = torch.empty(BATCH, dtype=torch.int64, device="cuda")
            if mixed:
                labels = torch.empty(BATCH, CLASSES, device="cuda")
            with torch.autocast("cuda", dtype=dtype or torch.float16, enabled=dtype is not None):
                outputs = model(pixel_values=images)
            assert outputs.logits.dtype == (dtype or torch.float32)
            loss = loss_function(outputs, labels, torch.empty((), dtype=torch.int64, device="cuda"))
            for weight in model.parameters():
                weight.grad = torch.empty_like(weight)
            watch.after_pass(loss.detach(), labels)
            optimizer.step()
            optimizer.zero_grad()
            call(average, "step_end")
        with average.evaluating():
            pass
    assert crossings.seen == []
    assert loss.device.type == "cuda" and loss.dtype == torch.float32
