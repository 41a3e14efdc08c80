"""Random draws that belong to a sample, not to a process.

A draw is a hash of (seed, epoch, sample index, stream, position), so the number of workers, the number of processes and
a resume in mid-epoch change nothing. The hash is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), which passes BigCrush; it is a handful of integer operations on a whole
batch at once, on any device.
"""

from __future__ import annotations

import torch

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MULTIPLIER_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def _shift_right(bits: torch.Tensor, by: int) -> torch.Tensor:
    return (bits >> by) & ((1 << (64 - by)) - 1)  # int64 shifts are arithmetic; the mask makes them logical


def _mix(bits: torch.Tensor) -> torch.Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _MULTIPLIER_1
    bits = (bits ^ _shift_right(bits, 27)) * _MULTIPLIER_2
    return bits ^ _shift_right(bits, 31)


def draw_keys(seed: int, epoch: int, sample_index: torch.Tensor) -> torch.Tensor:
    """Returns one key a sample, from which all its draws of this epoch follow.

    `sample_index` is int64 of shape (batch,); the keys have the same shape, dtype and device.
    """
    origin = torch.tensor([seed, epoch], dtype=torch.int64)
    origin = _mix(_mix(origin[:1] * _GOLDEN + 1) + origin[1:] * _GOLDEN)
    return _mix(_mix(sample_index * _GOLDEN + 1) ^ origin.to(sample_index.device))


def split_keys(keys: torch.Tensor, stream: int) -> torch.Tensor:
    """Returns other keys of the same shape, for what draws more often for one sample than a stream has draws for."""
    return _mix(_mix(keys) ^ (stream + 1))


def uniform_draws(keys: torch.Tensor, stream: int, count: int) -> torch.Tensor:
    """Returns uniform draws in [0, 1), float32 of shape (batch, count), on the device of `keys`.

    `stream` tells apart the transforms that draw for one sample: it is the transform's place in the recipe's list. A
    stream holds 65,536 draws.
    """
    positions = torch.arange(1, count + 1, device=keys.device) + (stream + 1) * 0x10000
    return _shift_right(_mix(keys[:, None] + positions * _GOLDEN), 40).float() * 2.0**-24
