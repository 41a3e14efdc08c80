"""timm's RandAugment: every operation against timm's own at the same strength."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.data.transforms.rand_augment import LEVELS, OPERATIONS, IncreasingRandAugment
from hf_finetune.errors import UserError

NEAREST = IncreasingRandAugment(interpolation=InterpolationMode.NEAREST, fill=[10, 20, 30])
INCREASING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")  # what timm calls otherwise
# How large a part of the pixels may differ where Pillow rounds otherwise.
ROUNDING = {"Rotate": 0.02, "ShearX": 0.02, "ShearY": 0.02, "TranslateXRel": 0.0, "TranslateYRel": 0.0}


def sample_image() -> PIL.Image.Image:
    """Smooth colours with some noise, 40 x 60 pixels."""
    rows, columns = np.mgrid[0:40, 0:60]
    channels = [40 + 3 * rows, 20 + 3 * columns, 200 - 2 * rows - columns]
    noise = np.random.default_rng(0).integers(0, 20, (40, 60, 3))
    return PIL.Image.fromarray(np.clip(np.stack(channels, 2) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0.0, 3.5, 9.0, 10.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_timms(name: str, magnitude: float, sign: int, monkeypatch: pytest.MonkeyPatch):
    timm = pytest.importorskip("timm.data.auto_augment")
    monkeypatch.setattr(timm, "_randomly_negate", lambda value: sign * value)
    image = sample_image()
    if name == "Posterize":
        magnitude = min(magnitude, 9.9)  # timm's 0 bits are an error of Pillow
    there = f"{name}Increasing" if name in INCREASING else name
    hparams = {"translate_pct": 0.45, "interpolation": PIL.Image.NEAREST, "img_mean": (10, 20, 30)}
    operation = timm.AugmentOp(there, prob=1.0, magnitude=magnitude, hparams=hparams)
    expected = functional.pil_to_tensor(operation(image)).int()
    # Pillow maps the pixels of the result to the source, and so moves the image the other way.
    own_sign = -sign if name.startswith("Translate") else sign
    result = OPERATIONS[name](NEAREST, functional.pil_to_tensor(image), own_sign * magnitude / LEVELS).int()
    if name in ROUNDING:
        assert (result != expected).any(0).float().mean() <= ROUNDING[name]
    else:
        assert (result - expected).abs().max() <= 1


def test_operations_and_magnitudes_are_drawn_as_stated(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, float]] = []
    for name in OPERATIONS:
        monkeypatch.setitem(
            OPERATIONS, name, lambda _, image, strength, name=name: seen.append((name, strength)) or image
        )
    image = functional.pil_to_tensor(sample_image())
    transform = IncreasingRandAugment(num_ops=2, magnitude=9, magnitude_std=0.5, p=0.5)
    torch.manual_seed(0)
    for _ in range(3000):
        transform(image)
    names, strengths = zip(*seen, strict=True)
    counts = [names.count(name) for name in OPERATIONS]
    assert 2850 < len(names) < 3150 and min(counts) > 140 and max(counts) < 260
    sizes = np.abs(strengths)
    # Cut off at 10, a normal distribution of deviation 0.5 around 9 has the mean 8.996.
    assert abs(sizes.mean() - 0.8996) < 0.003 and abs(sizes.std() - 0.049) < 0.003 and sizes.max() == 1
    assert 0.45 < np.mean(np.array(strengths) > 0) < 0.55


def test_it_is_written_like_any_other_transform():
    item = {"IncreasingRandAugment": {"num_ops": 3, "interpolation": "nearest", "fill": [1, 2, 3]}}
    (batched,) = build_train_transforms([item], uniform=True).batch
    transform = batched.transform
    assert (transform.num_ops, transform.interpolation) == (3, InterpolationMode.NEAREST)
    for arguments, message in (
        ({"magnitude": 11}, "magnitude is 0 to 10"),
        ({"interpolation": "bicubic"}, "its interpolation is nearest or bilinear"),
        ({"magnitud": 9}, 'Did you mean "magnitude"?'),
    ):
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            build_train_transforms([{"IncreasingRandAugment": arguments}], uniform=True)
