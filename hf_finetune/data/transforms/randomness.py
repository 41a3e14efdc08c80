"""Random draws that belong to an example, not to a process.

A draw is a hash of (seed, epoch, sample index, stream, position), so it depends neither on the number of workers or
processes nor on whether the run was resumed within the epoch. The hash is the finalizer of SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), which passes the BigCrush tests: a few integer
operations on a whole batch at once, on any device.
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
    """Return the draw key of each example, which determines all its draws of this epoch.

    Args:
        seed: The run's seed.
        epoch: The number of the epoch.
        sample_index: The examples' row numbers, int64 of shape (batch,).

    Returns:
        Keys of the same shape, dtype and device.
    """
    origin = torch.tensor([seed, epoch], dtype=torch.int64)
    origin = _mix(_mix(origin[:1] * _GOLDEN + 1) + origin[1:] * _GOLDEN)
    return _mix(_mix(sample_index * _GOLDEN + 1) ^ origin.to(sample_index.device))


def alternating_keys(keys: torch.Tensor, seed: int, epoch: int, sample_index: torch.Tensor) -> torch.Tensor:
    """Return draw keys whose lowest bit changes from each epoch to the next.

    Args:
        keys: The examples' draw keys of this epoch.
        seed: The run's seed, which decides with which value of the bit an example begins.
        epoch: The number of the epoch.
        sample_index: The examples' row numbers, int64 of the shape of `keys`.
    """
    bits = (draw_keys(seed, 0, sample_index) + epoch) & 1
    return (keys & ~1) | bits


def split_keys(keys: torch.Tensor, stream: int | torch.Tensor) -> torch.Tensor:
    """Return other keys of the same shape, for what draws more per example than a stream holds, or anew each time."""
    return _mix(_mix(keys) ^ (stream + 1))


def uniform_draws(keys: torch.Tensor, stream: int, count: int) -> torch.Tensor:
    """Return uniform draws in [0, 1).

    Args:
        keys: The examples' draw keys, int64 of shape (batch,).
        stream: Makes the draws of one transform independent of another's: its position in the recipe's list.
        count: The number of draws per example, up to the 65,536 of a stream.

    Returns:
        float32 of shape (batch, count), on the device of `keys`.
    """
    positions = torch.arange(1, count + 1, device=keys.device) + (stream + 1) * 0x10000
    return _shift_right(_mix(keys[:, None] + positions * _GOLDEN), 40).float() * 2.0**-24
