"""The transforms that move pixels of batches give what torchvision gives each image for the same draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from hf_finetune.data.transforms import batched, geometry
from hf_finetune.data.transforms.batch import BATCH_TRANSFORMS
from hf_finetune.data.transforms.randomness import draw_keys, uniform_draws

BATCH, HEIGHT, WIDTH = 12, 20, 28
KEYS = draw_keys(seed=1, epoch=0, sample_index=torch.arange(BATCH))
MODES = [InterpolationMode.NEAREST, InterpolationMode.BILINEAR]


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    return images.contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=["host", "device"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the way of the host's memory, or the way of a device's, which the host can go as well."""
    for module in (batched, geometry):
        monkeypatch.setattr(module, "on_cpu", lambda images: request.param == "host")


def assert_moved(result: torch.Tensor, expected: torch.Tensor, mode: InterpolationMode) -> None:
    """Checks that interpolated values differ by rounding, and that nearest pixels differ at ties only."""
    difference = (result.int() - expected.int()).abs()
    assert result.dtype == torch.uint8 and result.shape == expected.shape
    assert (difference > 0).float().mean() <= 0.002
    if mode == InterpolationMode.BILINEAR:
        assert difference.max() <= 1


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("arguments", [{}, {"center": [3, 5], "fill": [10, 20, 30]}, {"fill": None}], ids=str)
def test_rotation(images, mode, arguments):
    transform: Any = BATCH_TRANSFORMS["RandomRotation"](v2.RandomRotation(50, mode, **arguments), stream=2)
    angles = (-50 + 100 * uniform_draws(KEYS, 2, 1)[:, 0]).tolist()
    assert min(angles) < -20 and max(angles) > 20
    expected = [
        functional.rotate(image, angle, mode, **({"fill": 0} | arguments))
        for image, angle in zip(images, angles, strict=True)
    ]
    assert_moved(transform(images, KEYS), torch.stack(expected), mode)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    ("shear", "shears"),
    [(None, [0, 0, 0, 0]), (20, [-20, 20, 0, 0]), ([-5, 5, 10, 30], [-5, 5, 10, 30])],
    ids=["no shear", "one shear", "two shears"],
)
def test_affine(images, mode, shear, shears):
    reference = v2.RandomAffine([5, 40], (0.1, 0.3), (0.6, 1.4), shear, interpolation=mode, fill=90)
    transform: Any = BATCH_TRANSFORMS["RandomAffine"](reference, stream=2)
    expected = []
    for image, draws in zip(images, uniform_draws(KEYS, 2, 6).tolist(), strict=True):
        angle, x, y, scale, shear_x, shear_y = draws
        expected.append(
            functional.affine(
                image,
                5 + 35 * angle,
                [round((2 * x - 1) * 0.1 * WIDTH), round((2 * y - 1) * 0.3 * HEIGHT)],
                0.6 + 0.8 * scale,
                [shears[0] + (shears[1] - shears[0]) * shear_x, shears[2] + (shears[3] - shears[2]) * shear_y],
                mode,
                fill=90,
            )
        )
    assert_moved(transform(images, KEYS), torch.stack(expected), mode)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_perspective(images, mode):
    reference = v2.RandomPerspective(0.6, p=0.7, interpolation=mode, fill=[200, 0, 9])
    transform: Any = BATCH_TRANSFORMS["RandomPerspective"](reference, stream=2)
    drawn = (uniform_draws(KEYS, 2, 1)[:, 0] < 0.7).tolist()
    assert 4 < sum(drawn) < BATCH
    starts = [[0, 0], [WIDTH - 1, 0], [WIDTH - 1, HEIGHT - 1], [0, HEIGHT - 1]]
    ends = transform.corners(KEYS, HEIGHT, WIDTH).int().tolist()
    expected = [
        functional.perspective(image, starts, end, mode, fill=[200, 0, 9]) if moves else image
        for image, end, moves in zip(images, ends, drawn, strict=True)
    ]
    assert_moved(transform(images, KEYS), torch.stack(expected), mode)


def test_corners_are_drawn_evenly():
    transform: Any = BATCH_TRANSFORMS["RandomPerspective"](v2.RandomPerspective(0.5), stream=0)
    x, y = transform.corners(draw_keys(0, 0, torch.arange(3000)), 100, 60).unbind(2)
    right, bottom = torch.tensor([False, True, True, False]), torch.tensor([False, False, True, True])
    inwards_x, inwards_y = torch.where(right, 59 - x, x), torch.where(bottom, 99 - y, y)
    assert {*inwards_x.int().flatten().tolist()} == {*range(16)} and (inwards_x.mean(0) - 7.5).abs().max() < 0.4
    assert {*inwards_y.int().flatten().tolist()} == {*range(26)} and (inwards_y.mean(0) - 12.5).abs().max() < 0.6


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("RandomRotation", {"degrees": 30, "expand": True}),
        ("RandomAffine", {"degrees": 30, "interpolation": InterpolationMode.BICUBIC}),
        ("RandomPerspective", {"fill": {torch.Tensor: 3}}),
    ],
)
def test_what_stays_with_single_images(name, arguments):
    assert not BATCH_TRANSFORMS[name].supports(getattr(v2, name)(**arguments))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_image_alone_gets_the_same(images, mode):
    for reference in (v2.RandomAffine(30, (0.2, 0.2), interpolation=mode), v2.RandomPerspective(interpolation=mode)):
        transform = BATCH_TRANSFORMS[type(reference).__name__](reference, stream=0)
        whole = transform(images, KEYS)
        for index in range(0, BATCH, 3):
            alone = slice(index, index + 1)
            assert torch.equal(transform(images[alone].contiguous(), KEYS[alone]), whole[alone])
