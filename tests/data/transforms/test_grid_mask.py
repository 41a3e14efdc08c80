"""GridMask: the squares of the authors' loops, and the same for one image as for a batch."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.data.transforms.grid_mask import BatchGridMask, GridMask, grid_holes
from hf_finetune.data.transforms.randomness import draw_keys, uniform_draws
from hf_finetune.errors import UserError

KEYS = draw_keys(seed=1, epoch=0, sample_index=torch.arange(400))


def holes_of_the_authors(side: int, unit: int, start: tuple[int, int], ratio: float, degrees: int) -> np.ndarray:
    """Return the squares as the authors make them: stripes on a larger canvas, which Pillow rotates and which is cut.

    Their `imagenet_grid/utils/grid.py` with `mode` 1, which keeps the stripes.
    """
    canvas, length = int(1.5 * side), int(unit * ratio + 0.5)
    between = np.ones((canvas, canvas), np.uint8)
    for first in range(-unit, canvas + unit, unit):
        for axis, offset in enumerate(start):
            stripe = slice(max(0, first + offset), max(0, first + offset + length))
            between[(slice(None), stripe) if axis == 0 else stripe] = 0
    turned = np.asarray(PIL.Image.fromarray(between).rotate(degrees))
    border = (canvas - side) // 2
    return turned[border : border + side, border : border + side] == 1


@pytest.mark.parametrize("degrees", [0, 30, 90, 217])
@pytest.mark.parametrize(("unit", "start", "ratio"), [(17, (3, 11), 0.6), (40, (0, 39), 0.4), (64, (20, 5), 0.5)])
def test_the_squares_are_the_authors(unit: int, start: tuple[int, int], ratio: float, degrees: int):
    side = 64  # of a canvas of 96, whose centre is between two pixels
    offsets = tuple(torch.tensor([offset - 48]) for offset in start)
    (holes,) = grid_holes(side, side, torch.tensor([unit]), offsets, ratio, torch.tensor([float(degrees)]))
    expected = holes_of_the_authors(side, unit, start, ratio, degrees)
    assert 0.1 < expected.mean() < 0.6
    assert (holes.numpy() != expected).mean() <= (0.002 if degrees % 90 else 0)


def test_each_image_of_a_batch_has_the_mask_that_it_has_alone():
    transform = GridMask(p=0.5, unit=[0.3, 0.9], fill=[10, 20, 30])
    images = torch.full((400, 3, 20, 28), 200, dtype=torch.uint8)
    masked = BatchGridMask(transform, stream=4)(images, KEYS)
    draws = uniform_draws(KEYS, 4, 5)
    for number in range(0, 400, 40):
        alone = transform.masked(images[:1], draws[number : number + 1])
        assert torch.equal(masked[number], alone[0])
    holes = (masked != 200).all(1)
    changed = holes.flatten(1).any(1)
    assert 150 < changed.sum() < 250 and not (masked[~changed] != 200).any()
    assert masked[holes[:, None].expand_as(masked)].unique().tolist() == [10, 20, 30]
    assert 0.12 < holes[changed].float().mean() < 0.2  # 16 % of the pixels
    assert len({mask.numpy().tobytes() for mask in holes[changed]}) > changed.sum() - 5


def test_a_list_names_it_for_one_image_and_for_batches():
    image = torch.full((3, 16, 16), 200, dtype=torch.uint8)
    items = [{"GridMask": {"p": 1, "fill": 0}}]
    assert isinstance(build_train_transforms(items, uniform=True).batch[0], BatchGridMask)
    early = build_train_transforms([*items, "AugMix"], uniform=True).single[:1]
    transforms = build_train_transforms(items, uniform=True)
    assert early and not transforms.single
    torch.manual_seed(0)
    first = early[0](image)
    torch.manual_seed(0)
    assert torch.equal(early[0](image), first) and first.unique().tolist() == [0, 200]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 1}, "GridMask: p is 0 to 1, ratio between 0 and 1, and rotate 0 to 360"),
        ({"unit": [0.9, 0.4]}, "GridMask: unit is two parts of the shorter side above 0, the lower first"),
        ({"unit": 0.4}, "GridMask: "),
        ({"ratios": 0.4}, 'Did you mean "ratio"?'),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError) as refused:
        build_train_transforms([{"GridMask": arguments}], uniform=True)
    assert message in str(refused.value) and "\n" not in str(refused.value)
