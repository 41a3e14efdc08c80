"""What a check finds: the one form that text, JSON and page are derived from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

MOST_GROUPS = 1_000  # of a finding, which JSON lists


class Severity(Enum):
    """How much a finding matters; the value is the heading above those that matter as much."""

    FALSIFIES = "Falsifies the figures"
    PROBLEM = "Should be looked at"
    NOTE = "Good to know"


@dataclass(frozen=True)
class ImageRef:
    """An image of the dataset.

    Attributes:
        role: The role of its split.
        row: Its row in the source's split, as `sample_index` has it.
        name: Its path below the dataset's folder, or its row in words.
        label: The name of its class, or names joined by commas.
    """

    role: str
    row: int
    name: str
    label: str


@dataclass(frozen=True)
class Group:
    """Images that a finding is about, which belong together: copies of one image, or one image alone.

    Attributes:
        images: The images; none for one that cannot be read.
        text: What is to be said of them, such as "cat -> dog".
    """

    images: Sequence[ImageRef]
    text: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that a check has found.

    Attributes:
        check: The name of the kind of finding, such as "near_duplicates_across_splits".
        severity: How much it matters.
        text: What was found, sentences.
        advice: What to type or to do about it, a sentence; "" where there is nothing to do.
        count: How many images, groups or classes it is about.
        groups: The images, those that matter most first, at most `MOST_GROUPS`.
        figures: Numbers for programs.
    """

    check: str
    severity: Severity
    text: str
    advice: str = ""
    count: int = 0
    groups: Sequence[Group] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_mapping(self) -> dict[str, Any]:
        """Return the finding for a JSON file."""
        return {
            "check": self.check,
            "severity": self.severity.name.lower(),
            "text": self.text,
            "advice": self.advice,
            "count": self.count,
            **self.figures,
            "groups": [
                {"text": group.text, "images": [vars(image) for image in group.images]} for group in self.groups
            ],
        }


def names_of(groups: Sequence[Group], limit: int = 3, between: str = " = ") -> str:
    """Return `a = b; c = d` for the first groups of images, with ` = ` or what is stated between images of a group."""
    return "; ".join(between.join(image.name for image in group.images) for group in groups[:limit])
