"""What is decoded at a reduced scale is, but for small differences, what torchvision makes of the whole image."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from hf_finetune.data.images import decoding
from hf_finetune.data.images.decoding import decode_image
from hf_finetune.data.transforms.batch import RandomResizedCrop
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.data.transforms.letterbox import Letterbox
from hf_finetune.data.transforms.randomness import draw_keys
from hf_finetune.data.transforms.reduced_decoding import ReducedRandomResizedCrop, ReducedResize, to_tensor

KEYS = draw_keys(0, 0, torch.arange(40))


def photograph(width: int, height: int, orientation: int | None = None, format: str = "JPEG") -> bytes:
    """A smooth image with structure at every scale down to about eight pixels."""
    generator = np.random.default_rng(width)
    image = PIL.Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    image = image.resize((width // 8, height // 8)).resize((width, height), PIL.Image.BICUBIC)
    exif = PIL.Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format, exif=exif, **({"quality": 95} if format == "JPEG" else {}))
    return buffer.getvalue()


@pytest.fixture
def scales(monkeypatch) -> list[int]:
    """Notes the reduction of every decoding."""
    asked: list[int] = []
    decode = decoding.OpenImage.decode

    def noting(self, reduction=1, *how, **named):
        asked.append(reduction)
        return decode(self, reduction, *how, **named)

    monkeypatch.setattr(decoding.OpenImage, "decode", noting)
    return asked


def reference(values: list[bytes], transform: v2.RandomResizedCrop) -> list[torch.Tensor]:
    """The same boxes through whole images and torchvision."""
    images = [decode_image(value) for value in values]
    sides = (torch.tensor([getattr(image, side) for image in images]) for side in ("height", "width"))
    boxes = torch.stack(RandomResizedCrop(transform, 0).boxes(*sides, KEYS[: len(values)]), dim=1).tolist()
    return [
        functional.resized_crop(to_tensor(image), *box, transform.size, transform.interpolation, antialias=True)
        for image, box in zip(images, boxes, strict=True)
    ]


@pytest.mark.parametrize("mode", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
def test_without_reduction_it_is_torchvisions_own(mode, scales):
    values = [photograph(180 + 3 * number, 120 + number) for number in range(40)]
    transform = v2.RandomResizedCrop(96, interpolation=mode)
    crops = ReducedRandomResizedCrop(transform, 0)(values, KEYS)
    assert set(scales) == {1}
    assert all(torch.equal(crop, expected) for crop, expected in zip(crops, reference(values, transform), strict=True))


def test_a_reduced_image_differs_by_less_than_a_compression_does(scales):
    values = [photograph(1600, 1200)] * 40
    transform = v2.RandomResizedCrop(96)
    crops = ReducedRandomResizedCrop(transform, 0)(values, KEYS)
    assert {4, 8} <= set(scales)
    expected = torch.stack(reference(values, transform)).float()
    difference = torch.stack(crops).float() - expected
    assert difference.abs().mean() < 2 and difference.square().mean().sqrt() < 4 < expected.std()


def test_the_reduced_crop_still_covers_what_is_wanted(monkeypatch):
    seen = []
    resize = functional.resize
    monkeypatch.setattr(
        functional, "resize", lambda crop, *rest, **named: seen.append(crop.shape[-2:]) or resize(crop, *rest, **named)
    )
    ReducedRandomResizedCrop(v2.RandomResizedCrop(64), 0)([photograph(1200, 800)] * 40, KEYS)
    # One pixel less at most, where an edge was rounded.
    assert len(seen) == 40 and min(min(shape) for shape in seen) >= 63


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_box_is_drawn_on_the_upright_image(orientation):
    values = [photograph(1200, 800, orientation)] * 8
    transform = v2.RandomResizedCrop(64)
    crops = torch.stack(ReducedRandomResizedCrop(transform, 0)(values, KEYS[:8])).float()
    expected = torch.stack(reference(values, transform)).float()
    assert (crops - expected).abs().mean() < 0.1 * expected.std()  # another box would differ by about as much as this


def test_other_formats_come_whole():
    values = [photograph(400, 300, format="PNG")] * 4
    transform = v2.RandomResizedCrop(32)
    crops = ReducedRandomResizedCrop(transform, 0)(values, KEYS[:4])
    assert all(torch.equal(crop, expected) for crop, expected in zip(crops, reference(values, transform), strict=True))


@pytest.mark.parametrize(("size", "shape"), [(64, (64, 96)), ([48, 80], (48, 80))])
def test_resize(size, shape, scales):
    value = photograph(1200, 800)
    (resized,) = ReducedResize(v2.Resize(size))([value], KEYS[:1])
    assert scales == [8] and resized.shape == (3, *shape) and resized.dtype == torch.uint8
    expected = v2.Resize(size)(to_tensor(decode_image(value)))
    assert (resized.float() - expected.float()).abs().mean() < 2


def test_an_unreadable_image_is_named(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(photograph(400, 300)[:2000])
    with pytest.raises(decoding.UnreadableImage, match="broken.jpg"):
        ReducedRandomResizedCrop(v2.RandomResizedCrop(32), 0)([str(path)], KEYS[:1])


def test_a_letterbox_decodes_no_more_than_it_needs(scales):
    transforms = build_train_transforms([{"Letterbox": {"size": [40, 80]}}], uniform=False)
    values = [photograph(800, 200), photograph(200, 800), photograph(200, 800, orientation=6), photograph(90, 40)]
    wide, tall, turned, small = transforms.decode(values, torch.zeros(4, dtype=torch.int64))
    assert scales == [8, 8, 8, 1]
    for framed, value in zip((wide, tall, turned, small), values, strict=True):
        whole = Letterbox([40, 80])(to_tensor(decode_image(value)))
        assert framed.shape == (3, 40, 80)
        assert (framed.float() - whole.float()).abs().mean() < 3
    assert turned[:, 0].max() == 0 and tall[:, 20, 0].max() == 0  # borders above, and at the left
