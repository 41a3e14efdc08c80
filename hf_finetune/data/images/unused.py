"""Notes on what the files of images hold that is not used."""

from __future__ import annotations

from collections import Counter

from hf_finetune.data.images.decoding import Unused


def describe_unused(unused: Counter[Unused], sampled: bool = False) -> list[str]:
    """Return notes on what files hold that is not used: further pages, images of the camera, low bits.

    Args:
        unused: How many files hold what beside the 8 bits per channel of their first image (`count_unused`).
        sampled: Whether these are not all files.
    """
    total = f"{'the ' * sampled}{unused.total():,} images{' looked at' * sampled}"
    notes = []
    if more := _having(unused, Unused.MORE):
        notes.append(
            f"{more:,} of {total} {'has' if more == 1 else 'have'} more than one page or frame; the first is used."
        )
    if photos := _having(unused, Unused.OF_CAMERA):
        notes.append(
            f"{photos:,} of {total} {'is a photo' if photos == 1 else 'are photos'} to which the phone or camera has"
            " added a second image (a gain map, a depth map, a second view); the photo itself is used."
        )
    if deep := _having(unused, Unused.LOW_BITS):
        notes.append(
            f"{deep:,} of {total} {'has' if deep == 1 else 'have'} colours of more than 8 bits per channel; the upper 8"
            " bits are used."
        )
    return notes


def _having(unused: Counter[Unused], part: Unused) -> int:
    return sum(count for parts, count in unused.items() if parts & part)
