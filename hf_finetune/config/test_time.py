"""The kinds of test-time augmentation by name; `evaluation.test_time` has what they do."""

from __future__ import annotations

from hf_finetune.errors import UserError, did_you_mean

TTA_KINDS = {
    "flip": "each image and its mirror image",
    "multicrop": "each image, shifted to five places, and the mirror images of these",
}


def check_tta(kind: str | None) -> None:
    """Raise `UserError` where there is no such kind; None is none."""
    if kind is not None and kind not in TTA_KINDS:
        raise UserError(f"--tta is {kind}; use {' or '.join(TTA_KINDS)}.{did_you_mean(kind, TTA_KINDS)}")
