"""Draws belong to the sample: whoever asks, and in what company, gets the same ones."""

from __future__ import annotations

import torch

from hf_finetune.data.transforms.randomness import draw_keys, uniform_draws


def _splitmix64(state: int) -> int:
    """The finalizer in plain Python integers, as in the paper."""
    mask = (1 << 64) - 1
    state &= mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_the_hash_is_splitmix64():
    key = torch.tensor([123456789])
    position = 1 + 1 * 0x10000
    expected = _splitmix64(123456789 + position * 0x9E3779B97F4A7C15) >> 40
    assert uniform_draws(key, stream=0, count=1).item() == expected * 2.0**-24


def test_a_draw_depends_on_the_sample_alone_not_on_its_batch():
    together = uniform_draws(draw_keys(1, 2, torch.arange(1000)), stream=3, count=4)
    alone = uniform_draws(draw_keys(1, 2, torch.tensor([700])), stream=3, count=4)
    assert torch.equal(together[700], alone[0])


def test_seed_epoch_sample_and_stream_all_change_the_draws():
    reference = uniform_draws(draw_keys(1, 2, torch.arange(50)), stream=3, count=2)
    for seed, epoch, start, stream in ((7, 2, 0, 3), (1, 7, 0, 3), (1, 2, 50, 3), (1, 2, 0, 7)):
        other = uniform_draws(draw_keys(seed, epoch, torch.arange(start, start + 50)), stream=stream, count=2)
        assert (reference != other).all()


def test_draws_are_uniform_and_uncorrelated():
    draws = uniform_draws(draw_keys(0, 0, torch.arange(200_000)), stream=0, count=2)
    assert draws.min() >= 0.0 and draws.max() < 1.0
    # Bounds of five standard errors: sqrt(1/12/n) of the mean, 1/sqrt(n) of a correlation.
    assert abs(draws.mean().item() - 0.5) < 5 * (1 / 12 / draws.numel()) ** 0.5
    assert abs(torch.corrcoef(draws.T)[0, 1].item()) < 5 / 200_000**0.5
    assert abs(torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1].item()) < 5 / 200_000**0.5
    counts = torch.histc(draws[:, 0], bins=20, min=0, max=1)
    assert ((counts - 10_000).abs() < 5 * 10_000**0.5).all()
