"""The transforms of colours on batches give what torchvision gives each image for the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from hf_finetune.data.transforms import batched, color_arithmetic
from hf_finetune.data.transforms.batch import BATCH_TRANSFORMS
from hf_finetune.data.transforms.randomness import draw_keys

BATCH = 24
KEYS = draw_keys(seed=1, epoch=0, sample_index=torch.arange(BATCH))


@pytest.fixture
def images() -> torch.Tensor:
    """Returns noise, smooth colours, gray and flat images, with the channels last in memory as they are decoded."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (BATCH, 3, 20, 28), generator=generator, dtype=torch.uint8)
    coarse = torch.rand(BATCH, 3, 4, 5, generator=generator) * 300 - 20
    smooth = torch.nn.functional.interpolate(coarse, size=(20, 28), mode="bilinear").clamp(0, 255).to(torch.uint8)
    images = torch.cat([noise[:8], smooth[8:]])
    images[20] = images[20, :1]
    images[21] = 77
    images[22] = 255
    return images.contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=["host", "device"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the way of the host's memory, or the way of a device's, which the host can go as well."""
    for module in (batched, color_arithmetic):
        monkeypatch.setattr(module, "on_cpu", lambda images: request.param == "host")


def assert_near(result: torch.Tensor, expected: torch.Tensor, levels: int, share: float) -> None:
    """Checks that uint8 images differ by some levels at most, and in a share of their values at most."""
    assert result.dtype == torch.uint8 and result.shape == expected.shape
    difference = (result.int() - expected.int()).abs()
    assert difference.max() <= levels
    assert (difference > 0).float().mean() <= share


ARITHMETIC: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], list[float]]] = {
    "brightness": (color_arithmetic.adjust_brightness, functional.adjust_brightness, [0.0, 0.37, 1.0, 1.9]),
    "contrast": (color_arithmetic.adjust_contrast, functional.adjust_contrast, [0.0, 0.37, 1.0, 1.9]),
    "saturation": (color_arithmetic.adjust_saturation, functional.adjust_saturation, [0.0, 0.37, 1.0, 1.9]),
    "sharpness": (color_arithmetic.adjust_sharpness, functional.adjust_sharpness, [0.0, 0.37, 1.0, 1.9]),
}


@pytest.mark.parametrize(("ours", "theirs", "factors"), ARITHMETIC.values(), ids=ARITHMETIC)
def test_a_factor_for_each_image(images, ours, theirs, factors):
    values = torch.tensor(factors * (BATCH // len(factors)))
    expected = torch.stack([theirs(image, value) for image, value in zip(images, values.tolist(), strict=True)])
    assert_near(ours(images, values), expected, levels=1, share=0.15)
    assert_near(ours(images, values.fill_(1.0)), images, levels=0, share=0)


def test_hue(images):
    turns = torch.linspace(-0.5, 0.5, BATCH)
    expected = torch.stack([functional.adjust_hue(*pair) for pair in zip(images, turns.tolist(), strict=True)])
    shifted = color_arithmetic.to_uint8(color_arithmetic.shift_hue(color_arithmetic.to_levels(images), turns))
    assert_near(shifted, expected, levels=1, share=0.01)


@pytest.mark.usefixtures("place")
def test_exact_changes(images):
    bits, thresholds = torch.arange(BATCH) % 9, torch.linspace(0, 255, BATCH)
    posterized = [functional.posterize(*pair) for pair in zip(images, bits.tolist(), strict=True)]
    solarized = [functional.solarize(*pair) for pair in zip(images, thresholds.tolist(), strict=True)]
    pairs = [
        (color_arithmetic.posterize(images, bits), posterized),
        (color_arithmetic.solarize(images, thresholds), solarized),
        (color_arithmetic.invert(images), [functional.invert(image) for image in images]),
        (color_arithmetic.equalize(images), [functional.equalize(image) for image in images]),
        (color_arithmetic.autocontrast(images), [functional.autocontrast(image) for image in images]),
        (color_arithmetic.to_gray(images), [functional.rgb_to_grayscale(image, 3) for image in images]),
    ]
    for result, expected in pairs:
        assert torch.equal(result, torch.stack(expected))


def test_small_images_are_not_sharpened(images):
    assert torch.equal(color_arithmetic.adjust_sharpness(images[..., :2], torch.full((BATCH,), 3.0)), images[..., :2])


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "arguments",
    [{"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}, {"contrast": [0.5, 2.0]}, {"hue": 0.5}, {}],
)
def test_color_jitter(images, arguments):
    transform: Any = BATCH_TRANSFORMS["ColorJitter"](v2.ColorJitter(**arguments), stream=3)
    order, strengths = transform.draw(KEYS)
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    keys = ("brightness", "contrast", "saturation", "hue")
    expected = []
    for image, fn_idx, values in zip(images, order, strengths.tolist(), strict=True):
        chosen = [value if key in arguments else None for key, value in zip(keys, values, strict=True)]
        params = dict(zip(names, chosen, strict=True))
        expected.append(transform.transform.transform(image, {"fn_idx": fn_idx, **params}))
    # Each of the steps cuts fractions, so one level of difference may grow by the factors of the steps that follow.
    assert_near(transform(images, KEYS), torch.stack(expected), levels=4, share=0.05)


def test_color_jitter_draws_orders_and_strengths_evenly():
    transform: Any = BATCH_TRANSFORMS["ColorJitter"](v2.ColorJitter(0.4, [0.5, 2.0], 0.2, 0.1), stream=0)
    order, strengths = transform.draw(draw_keys(0, 0, torch.arange(4000)))
    assert len({tuple(one) for one in order.tolist()}) == 24
    assert (order.float().mean(0) - 1.5).abs().max() < 0.1
    for values, (low, high) in zip(strengths.T, [(0.6, 1.4), (0.5, 2.0), (0.8, 1.2), (-0.1, 0.1)], strict=True):
        width = high - low
        assert low <= values.min() < low + 0.01 * width and high - 0.01 * width < values.max() <= high
        assert (values.mean() - (low + high) / 2).abs() < 0.03 * width


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("size", [1, 5, [3, 7], 15])
def test_gaussian_blur(images, size):
    transform: Any = BATCH_TRANSFORMS["GaussianBlur"](v2.GaussianBlur(size, sigma=(0.1, 3.0)), stream=2)
    sigmas = transform.draw(KEYS)
    assert 0.1 <= sigmas.min() < 0.6 and 2.5 < sigmas.max() <= 3.0
    sizes = size if isinstance(size, list) else [size, size]
    expected = [functional.gaussian_blur(i, sizes, [s, s]) for i, s in zip(images, sigmas.tolist(), strict=True)]
    assert_near(transform(images, KEYS), torch.stack(expected), levels=1, share=0.001)


SOMETIMES: dict[str, tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor]]] = {
    "RandomGrayscale": ({}, lambda image: functional.rgb_to_grayscale(image, 3)),
    "RandomInvert": ({}, functional.invert),
    "RandomPosterize": ({"bits": 3}, lambda image: functional.posterize(image, 3)),
    "RandomSolarize": ({"threshold": 100.5}, lambda image: functional.solarize(image, 100.5)),
    "RandomAutocontrast": ({}, functional.autocontrast),
    "RandomEqualize": ({}, functional.equalize),
    "RandomAdjustSharpness": ({"sharpness_factor": 2.0}, lambda image: functional.adjust_sharpness(image, 2.0)),
}


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", SOMETIMES)
def test_changes_of_some_images(images, name):
    arguments, change = SOMETIMES[name]
    none, some, all_of_them = (
        BATCH_TRANSFORMS[name](getattr(v2, name)(p=p, **arguments), stream=1)(images, KEYS) for p in (0.0, 0.4, 1.0)
    )
    changed = torch.stack([change(image) for image in images])
    assert torch.equal(none, images)
    assert_near(all_of_them, changed, levels=1, share=0.1)
    drawn = (some == all_of_them).flatten(1).all(1) & (all_of_them != images).flatten(1).any(1)
    assert 4 <= drawn.sum() <= 16
    assert torch.equal(some[~drawn], images[~drawn])


@pytest.mark.parametrize("name", ["ColorJitter", "GaussianBlur", *SOMETIMES])
def test_an_image_alone_gets_the_same(images, name, monkeypatch):
    arguments = {"ColorJitter": {"hue": 0.2, "contrast": 0.5}, "GaussianBlur": {"kernel_size": 5}}
    reference = getattr(v2, name)(**(arguments.get(name) or SOMETIMES[name][0]))
    transform = BATCH_TRANSFORMS[name](reference, stream=0)
    whole = transform(images, KEYS)
    for index in range(0, BATCH, 5):
        alone = slice(index, index + 1)
        assert torch.equal(transform(images[alone].contiguous(), KEYS[alone]), whole[alone]), name
