"""RandAugment and its relatives on batches: each operation is torchvision's or timm's, and so are the draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, v2

from hf_finetune.data.transforms.batch import BATCH_TRANSFORMS
from hf_finetune.data.transforms.policies import Operations
from hf_finetune.data.transforms.rand_augment import OPERATIONS, IncreasingRandAugment
from hf_finetune.data.transforms.randomness import draw_keys

BATCH, HEIGHT, WIDTH = 24, 30, 36
KEYS = draw_keys(seed=1, epoch=0, sample_index=torch.arange(BATCH))
MANY = draw_keys(seed=0, epoch=0, sample_index=torch.arange(6000))
POLICIES: dict[str, v2.Transform] = {
    "RandAugment": v2.RandAugment(num_ops=3),
    "RandAugment, bilinear": v2.RandAugment(interpolation=InterpolationMode.BILINEAR, fill=[9, 8, 7]),
    "TrivialAugmentWide": v2.TrivialAugmentWide(),
    "AutoAugment": v2.AutoAugment(),
    "AutoAugment for SVHN": v2.AutoAugment(AutoAugmentPolicy.SVHN, fill=128),
    "IncreasingRandAugment": IncreasingRandAugment(),
}


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(BATCH, 3, 5, 6, generator=generator) * 300 - 20
    smooth = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear").clamp(0, 255)
    return smooth.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def batched(transform: v2.Transform) -> Any:
    return BATCH_TRANSFORMS[type(transform).__name__](transform, stream=1)


def assert_near(result: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """Checks that few values differ; where pixels do not move, by one level at most."""
    difference = (result.int() - expected.int()).abs()
    assert (difference > 0).float().mean() <= 0.03, name
    if not name.startswith(("Shear", "Translate", "Rotate")):
        assert difference.max() <= 1, name


@pytest.mark.parametrize("mode", [InterpolationMode.NEAREST, InterpolationMode.BILINEAR], ids=str)
def test_operations_of_torchvision(images, mode):
    # Of all policies the strengths of this one reach furthest.
    reference = v2.TrivialAugmentWide(interpolation=mode, fill=[10, 20, 30])
    changes = Operations(reference).by_name
    space = reference._AUGMENTATION_SPACE | {"Invert": (lambda *_: None, False)}
    for name in {*space} - {"Identity"}:
        magnitudes, signed = space[name][0](BATCH, HEIGHT, WIDTH), space[name][1]
        values = torch.zeros(BATCH) if magnitudes is None else magnitudes.float()
        values[::2] *= -1 if signed else 1
        expected = [
            reference._apply_image_or_video_transform(image, name, value, mode, {torch.Tensor: [10.0, 20.0, 30.0]})
            for image, value in zip(images, values.tolist(), strict=True)
        ]
        assert_near(changes[name](images, values), torch.stack(expected), name)


@pytest.mark.parametrize("mode", [InterpolationMode.NEAREST, InterpolationMode.BILINEAR], ids=str)
def test_operations_of_timm(images, mode):
    reference = IncreasingRandAugment(interpolation=mode, fill=[10, 20, 30])
    changes, strengths = Operations(reference).of_timm(), torch.linspace(-1, 1, BATCH)
    for name, operation in OPERATIONS.items():
        expected = [operation(reference, image, value) for image, value in zip(images, strengths.tolist(), strict=True)]
        assert_near(changes[name](images, strengths), torch.stack(expected), name)


def test_rand_augment_draws_each_operation_and_sign_equally_often():
    reference = v2.RandAugment(num_ops=2, magnitude=7)
    kinds, magnitudes = batched(reference).draw(MANY, HEIGHT, WIDTH)
    space = list(reference._AUGMENTATION_SPACE.values())
    assert kinds.shape == magnitudes.shape == (6000, 2)
    for number, (values_of, signed) in enumerate(space):
        found = magnitudes[kinds == number]
        assert abs(len(found) / 12000 - 1 / 14) < 0.01
        values = values_of(31, HEIGHT, WIDTH)
        value = 0.0 if values is None else float(values[7])
        assert {*found.tolist()} == ({value, -value} if signed else {value})
        assert not signed or abs((found > 0).float().mean() - 0.5) < 0.06
    assert abs(torch.corrcoef(kinds.T.float())[0, 1]) < 0.05  # the second operation does not depend on the first


def test_trivial_augment_draws_all_magnitudes():
    reference = v2.TrivialAugmentWide()
    kinds, magnitudes = batched(reference).draw(MANY, HEIGHT, WIDTH)
    rotate = [*reference._AUGMENTATION_SPACE].index("Rotate")
    degrees = magnitudes[kinds == rotate]
    assert len({*degrees.abs().tolist()}) == 31 and degrees.abs().max() == 135
    assert kinds.shape == (6000, 1) and abs(degrees.mean()) < 12


def test_auto_augment_draws_the_pairs_with_their_probabilities():
    reference = v2.AutoAugment(AutoAugmentPolicy.CIFAR10)
    kinds, _ = batched(reference).draw(MANY, HEIGHT, WIDTH)
    names = [*reference._AUGMENTATION_SPACE]
    for slot in (0, 1):
        for number, name in enumerate(names):
            chance = sum(pair[slot][1] for pair in reference._policies if pair[slot][0] == name) / 25
            assert abs((kinds[:, slot] == number).float().mean() - chance) < 0.02, name


def test_increasing_rand_augment_draws_strengths_around_its_magnitude():
    kinds, strengths = batched(IncreasingRandAugment(magnitude=6, magnitude_std=0.5, p=0.4)).draw(MANY, HEIGHT, WIDTH)
    assert abs((kinds >= 0).float().mean() - 0.4) < 0.02 and {*kinds.flatten().tolist()} == {-1, *range(15)}
    assert abs(strengths.abs().mean() - 0.6) < 0.005 and abs(strengths.abs().std() - 0.05) < 0.005
    assert abs((strengths > 0).float().mean() - 0.5) < 0.02


@pytest.mark.parametrize("reference", POLICIES.values(), ids=POLICIES)
def test_an_image_alone_gets_the_same(images, reference):
    whole = batched(reference)(images, KEYS)
    assert whole.dtype == torch.uint8 and (whole != images).flatten(1).any(1).float().mean() > 0.2
    for index in range(0, BATCH, 5):
        alone = slice(index, index + 1)
        assert torch.equal(batched(reference)(images[alone].contiguous(), KEYS[alone]), whole[alone])
