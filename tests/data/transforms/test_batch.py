"""Each batch transform gives every image what torchvision gives it for the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from hf_finetune.data.transforms import batch as batch_transforms
from hf_finetune.data.transforms.randomness import draw_keys, uniform_draws

BATCH = 64


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (BATCH, 3, 20, 28), generator=generator, dtype=torch.uint8)


@pytest.fixture
def keys() -> torch.Tensor:
    return draw_keys(seed=1, epoch=0, sample_index=torch.arange(BATCH))


@pytest.fixture(params=["host", "device"])
def place(request, monkeypatch):
    """Takes the way of the host's memory, or the way of a device's, which the host can go as well."""
    monkeypatch.setattr(batch_transforms, "on_cpu", lambda images: request.param == "host")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("name", "flip"),
    [("RandomHorizontalFlip", functional.horizontal_flip), ("RandomVerticalFlip", functional.vertical_flip)],
)
def test_flips(images, keys, name, flip):
    transform = getattr(batch_transforms, name)(getattr(v2, name)(p=0.3), stream=5)
    flipped = uniform_draws(keys, 5, 1)[:, 0] < 0.3
    assert 5 < flipped.sum() < 40
    for image, result, is_flipped in zip(images, transform(images, keys), flipped, strict=True):
        assert torch.equal(result, flip(image) if is_flipped else image)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("padding", [None, 4, [1, 2, 3, 4]])
@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_random_crop(images, keys, padding, mode):
    reference = v2.RandomCrop(size=(16, 18), padding=padding, fill=7, padding_mode=mode)
    cropped = batch_transforms.RandomCrop(reference, stream=2)(images, keys)
    padded = images if padding is None else functional.pad(images, padding, fill=7, padding_mode=mode)
    draws = uniform_draws(keys, 2, 2)
    tops = (draws[:, 0] * (padded.shape[-2] - 16 + 1)).long()
    lefts = (draws[:, 1] * (padded.shape[-1] - 18 + 1)).long()
    assert len(set(tops.tolist())) > 3 and len(set(lefts.tolist())) > 3
    for index in range(BATCH):
        expected = functional.crop(padded[index], int(tops[index]), int(lefts[index]), 16, 18)
        assert torch.equal(cropped[index], expected)


def test_random_crop_pads_a_image_that_is_too_small(images, keys):
    cropped = batch_transforms.RandomCrop(v2.RandomCrop(size=32, pad_if_needed=True), stream=0)(images, keys)
    assert cropped.shape == (BATCH, 3, 32, 32)
    assert (cropped.flatten(1).float().sum(1) > 0).all()


@pytest.mark.parametrize("mode", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
@pytest.mark.parametrize("size", [8, (40, 30)])
def test_random_resized_crop(images, keys, mode, size):
    reference = v2.RandomResizedCrop(size=size, interpolation=mode)
    transform = batch_transforms.RandomResizedCrop(reference, stream=1)
    boxes = torch.stack(transform.boxes(torch.tensor([20]), torch.tensor([28]), keys), dim=1)
    assert len({tuple(box) for box in boxes.tolist()}) > 50
    resized = transform(images.float(), keys)
    for index, (top, left, height, width) in enumerate(boxes.tolist()):
        assert 0 <= top <= 20 - height and 0 <= left <= 28 - width
        expected = functional.resized_crop(
            images[index].float(), top, left, height, width, reference.size, interpolation=mode, antialias=True
        )
        torch.testing.assert_close(resized[index], expected, atol=2e-3, rtol=0)  # of 255


def test_random_resized_crop_of_uint8_is_within_rounding_of_torchvision(images, keys):
    reference = v2.RandomResizedCrop(size=12)
    transform = batch_transforms.RandomResizedCrop(reference, stream=1)
    boxes = zip(
        *(values.tolist() for values in transform.boxes(torch.tensor([20]), torch.tensor([28]), keys)), strict=True
    )
    resized = transform(images, keys)
    assert resized.dtype == torch.uint8
    for index, (top, left, height, width) in enumerate(boxes):
        expected = functional.resized_crop(images[index], top, left, height, width, [12, 12], antialias=True)
        assert (resized[index].int() - expected.int()).abs().max() <= 1


def test_random_resized_crop_boxes_follow_scale_and_ratio(keys):
    transform = batch_transforms.RandomResizedCrop(v2.RandomResizedCrop(size=8, scale=(0.2, 0.5)), stream=1)
    _, _, height, width = transform.boxes(torch.tensor([200]), torch.tensor([200]), draw_keys(0, 0, torch.arange(2000)))
    area = height * width / 200**2
    assert 0.19 < area.min() < 0.22 and 0.48 < area.max() < 0.51
    assert 0.74 < (width / height).min() < 0.77 and 1.30 < (width / height).max() < 1.35


def test_random_resized_crop_takes_the_centre_where_nothing_fits(keys):
    transform = batch_transforms.RandomResizedCrop(v2.RandomResizedCrop(size=8, scale=(1.0, 1.0)), stream=1)
    # No box of the whole area with a ratio of 3/4 to 4/3 fits in 10 x 100.
    top, left, height, width = transform.boxes(torch.tensor([10]), torch.tensor([100]), keys)
    assert set(height.tolist()) == {10} and set(width.tolist()) == {13}
    assert set(top.tolist()) == {0} and set(left.tolist()) == {(100 - 13) // 2}


@pytest.mark.parametrize("value", [0, [9, 8, 7]])
def test_random_erasing(images, keys, value):
    transform = batch_transforms.RandomErasing(v2.RandomErasing(p=0.5, value=value), stream=4)
    erased = transform(images, keys)
    drawn = uniform_draws(keys, 4, 1)[:, 0] < 0.5
    changed = (erased != images).flatten(1).any(1)
    assert torch.equal(changed, drawn)
    fill = torch.tensor([value] * 3 if value == 0 else value, dtype=torch.uint8)
    for image, result in zip(images[drawn], erased[drawn], strict=True):
        rows, columns = torch.where((result != image).any(0))
        box = result[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.equal(box, fill[:, None, None].expand_as(box))
        assert 0.01 < box[0].numel() / image[0].numel() < 0.36


def test_random_erasing_with_noise(images, keys):
    normalized = images.float() / 255 + 10
    transform = batch_transforms.RandomErasing(v2.RandomErasing(p=0.5, value="random"), stream=4)
    marked = batch_transforms.RandomErasing(v2.RandomErasing(p=0.5, value=-1), stream=4)(normalized, keys) == -1
    erased = transform(normalized, keys)
    assert torch.equal(erased[~marked], normalized[~marked]) and marked.any()
    noise = erased[marked].double().numpy()
    assert scipy.stats.kstest(noise, scipy.stats.norm.cdf).pvalue > 0.01
    assert len(np.unique(noise)) > 0.99 * len(noise)
    assert torch.equal(transform(normalized[5:6], keys[5:6]), erased[5:6])  # whatever else is in the batch


def test_every_transform_keeps_the_batch_independent(images, keys):
    """An image's result is the same in a batch of its own."""
    for name, arguments in {
        "RandomCrop": {"size": 10, "padding": 2},
        "RandomHorizontalFlip": {},
        "RandomResizedCrop": {"size": 9},
        "RandomErasing": {},
        "Resize": {"size": [9, 9]},
        "CenterCrop": {"size": 9},
    }.items():
        transform = batch_transforms.BATCH_TRANSFORMS[name](getattr(v2, name)(**arguments), stream=0)
        whole = transform(images, keys)
        assert torch.equal(whole[5:6], transform(images[5:6], keys[5:6])), name
