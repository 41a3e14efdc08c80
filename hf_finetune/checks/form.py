"""What files are like: those that cannot be read, and sizes, modes and orientations that stand out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.checks.finding import MOST_GROUPS, Finding, Group, Severity
from hf_finetune.checks.subject import Rows, Subject, counted
from hf_finetune.data.images.header_check import describe_bad_image, describe_unreadable
from hf_finetune.data.images.value_range import choose_range
from hf_finetune.errors import UserError

_NEARLY_ALL = 0.99  # of the images: what the others are is told
_TURNED = 2  # the least EXIF orientation that is not upright


def check_readable(subject: Subject) -> list[Finding]:
    """List the images that cannot be read, by their header or by their pixels."""
    described = [*subject.data.bad_images]
    for role, scan in subject.scans.items():
        rows = subject.split(role)["sample_index"] if scan.errors else []
        described += [
            describe_bad_image(error, subject.data.folder, role, rows[row]) for row, error in scan.errors.items()
        ]
    if not described:
        return []
    text = f"{describe_unreadable(described)}."
    advice = "Fix or remove them, or use --on_bad_image skip, which leaves them out."
    groups = [Group((), image) for image in described]
    return [Finding("unreadable", Severity.PROBLEM, text, advice, len(described), groups)]


def check_form(subject: Subject) -> list[Finding]:
    """Tell of sizes and modes that are not those of nearly all, of images that EXIF turns, and of more than 8 bits."""
    looks = subject.looks
    readable = np.flatnonzero(looks["readable"])
    sizes = looks["width"].astype(np.int64) << 32 | looks["height"].astype(np.int64)
    found = [
        *_rare(subject, readable, sizes, "rare_sizes", lambda row: f"{looks['width'][row]} x {looks['height'][row]}"),
        *_rare(subject, readable, looks["mode"], "rare_modes", lambda row: str(looks["mode"][row])),
    ]
    turned = readable[looks["orientation"][readable] >= _TURNED]
    if len(turned):
        are = "is" if len(turned) == 1 else "are"
        text = f"{counted(len(turned))} {are} stored turned, and used upright as EXIF says."
        found.append(Finding("turned", Severity.NOTE, text, count=len(turned), groups=subject.alone(turned)))
    return found + _more_bits(subject)


def _rare(
    subject: Subject, readable: Rows, values: npt.NDArray[Any], check: str, shown: Callable[[int], str]
) -> list[Finding]:
    """Return a note on the images whose value is not the one that nearly all have."""
    _, first, inverse, counts = np.unique(values[readable], return_index=True, return_inverse=True, return_counts=True)
    if len(counts) < 2 or counts.max() < _NEARLY_ALL * len(readable):
        return []
    usual = int(counts.argmax())
    rows = readable[inverse.reshape(-1) != usual]
    groups = [Group([subject.image(int(row))], shown(int(row))) for row in rows[:MOST_GROUPS]]
    others = "; ".join(f"{group.images[0].name} is {group.text}" for group in groups[:3])
    text = (
        f"{counted(int(counts[usual]))} are {shown(int(readable[first[usual]]))}, and {len(rows):,} not: {others}"
        f"{' and so on' * (len(rows) > 3)}."
    )
    return [Finding(check, Severity.NOTE, text, count=len(rows), groups=groups)]


def _more_bits(subject: Subject) -> list[Finding]:
    """Return a note on the range of images of more than 8 bits, or the advice where it is not clear."""
    try:
        _, note = choose_range(subject.data.wide_values, None, subject.data.source)
    except UserError as error:
        return [Finding("value_range", Severity.PROBLEM, str(error))]
    return [Finding("value_range", Severity.NOTE, note.removeprefix("Note: "))] if note else []
