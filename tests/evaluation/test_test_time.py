"""The views of test-time augmentation, and their mean."""

from __future__ import annotations

import pytest
import torch

from hf_finetune.config.test_time import TTA_KINDS, check_tta
from hf_finetune.errors import UserError
from hf_finetune.evaluation.test_time import views, with_views


def test_a_flip_is_the_batch_and_its_mirror_image():
    batch = torch.arange(24.0).reshape(2, 1, 3, 4)
    plain, mirrored = views(batch, "flip")
    assert torch.equal(plain, batch)
    assert mirrored[0, 0, 0].tolist() == [3, 2, 1, 0]


def test_multicrop_shifts_towards_the_corners_by_a_32nd_of_the_side():
    batch = torch.rand(2, 3, 64, 96)
    found = list(views(batch, "multicrop"))
    assert len(found) == 10 and all(view.shape == batch.shape for view in found)
    assert torch.equal(found[0], batch) and torch.equal(found[1], batch.flip(-1))
    top_left, bottom_right = found[2], found[8]  # two pixels of 64, three of 96
    assert torch.equal(top_left[..., 2:, 3:], batch[..., :-2, :-3])
    assert torch.equal(bottom_right[..., :-2, :-3], batch[..., 2:, 3:])
    assert torch.equal(top_left[..., 2:, 2], batch[..., :-2, 1])  # the edge is reflected
    assert all(torch.equal(found[place + 1], found[place].flip(-1)) for place in range(0, 10, 2))


@pytest.mark.parametrize("kind", TTA_KINDS)
def test_the_mean_is_of_probabilities(kind):
    def logits_of(pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.stack([pixel_values[:, 0, 0, 0], pixel_values[:, 0, -1, -1]], dim=1).bfloat16() * 5

    batch = torch.rand(3, 1, 8, 8)
    plain, averaged = with_views(logits_of, batch, kind)
    assert torch.equal(plain, logits_of(batch).float()) and averaged.dtype == torch.float32
    mean = torch.stack([logits_of(view).float().softmax(-1) for view in views(batch, kind)]).mean(dim=0)
    torch.testing.assert_close(averaged.softmax(-1), mean)


def test_an_image_that_is_its_own_mirror_image_keeps_its_probabilities():
    batch = torch.ones(1, 3, 8, 8)
    plain, averaged = with_views(lambda values: values.mean((2, 3)) * torch.tensor([1.0, 2, 3]), batch, "multicrop")
    torch.testing.assert_close(averaged.softmax(-1), plain.softmax(-1))


def test_an_unknown_kind_is_one_line():
    check_tta(None)
    with pytest.raises(UserError, match=r"^--tta is flop; use flip or multicrop\. Did you mean"):
        check_tta("flop")
