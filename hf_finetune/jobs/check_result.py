"""What a check of a dataset gives: findings, a verdict, and the text and the JSON that show them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.checks.classes import class_counts
from hf_finetune.checks.finding import Finding, Severity
from hf_finetune.checks.subject import Subject, counted
from hf_finetune.hub.redaction import without_private_text


@dataclass(frozen=True)
class SplitFacts:
    """A split in figures.

    Attributes:
        name: What it is, in words.
        images: How many images can be read.
        unreadable: How many cannot.
        classes: How many readable images each class has, by name.
    """

    name: str
    images: int
    unreadable: int
    classes: dict[str, int]


@dataclass(frozen=True)
class ImageFacts:
    """The files in figures.

    Attributes:
        width: The least, the median and the greatest width in pixels.
        height: Likewise.
        modes: How many images have each mode of Pillow.
        formats: How many files have each format.
    """

    width: tuple[int, int, int]
    height: tuple[int, int, int]
    modes: dict[str, int]
    formats: dict[str, int]


@dataclass(frozen=True, repr=False)
class CheckResult:
    """What was found in a dataset.

    Attributes:
        dataset: What messages call it.
        splits: Its splits, by role.
        images: Its files.
        findings: Those that matter most first.
    """

    dataset: str
    splits: dict[str, SplitFacts]
    images: ImageFacts
    findings: list[Finding]

    def __repr__(self) -> str:
        """Return one line with the number of findings."""
        return f"CheckResult of {self.dataset}: {counted(len(self.findings), 'finding')}. {self.verdict}"

    @property
    def falsified(self) -> bool:
        """Whether something would make the figures of a model wrong."""
        return any(finding.severity is Severity.FALSIFIES for finding in self.findings)

    @property
    def verdict(self) -> str:
        """Return what to do, in plain words."""
        if self.falsified:
            return (
                f'Do not train yet: what is listed under "{Severity.FALSIFIES.value}" would make the figures of a'
                " model wrong."
            )
        if any(finding.severity is Severity.PROBLEM for finding in self.findings):
            return (
                "You can train: nothing makes the figures wrong. First look at what is listed under"
                f' "{Severity.PROBLEM.value}".'
            )
        return "You can train: nothing was found that makes the figures wrong."

    def as_mapping(self) -> dict[str, Any]:
        """Return all of it for a JSON file."""
        return {
            "dataset": self.dataset,
            "falsified": self.falsified,
            "verdict": self.verdict,
            "splits": {role: vars(facts) for role, facts in self.splits.items()},
            "images": vars(self.images),
            "findings": [finding.as_mapping() for finding in self.findings],
        }

    def text(self) -> str:
        """Return what the command prints."""
        lines = [f"{self.dataset}: {self.described()}"]
        for severity in Severity:
            own = [finding for finding in self.findings if finding.severity is severity]
            if own:
                lines += [
                    "",
                    f"{severity.value}:",
                    *(f"  - {finding.text} {finding.advice}".rstrip() for finding in own),
                ]
        return "\n".join([*lines, "", self.verdict])

    def described(self) -> str:
        """Return a sentence on splits, classes and files."""
        splits = ", ".join(f"{role} {facts.images:,}" for role, facts in self.splits.items())
        classes = len(next(iter(self.splits.values())).classes)
        width, height = (_range(*side) for side in (self.images.width, self.images.height))
        kinds = "; ".join(", ".join(f"{name} {count:,}" for name, count in kind.items()) for kind in self._kinds())
        return f"{splits} images of {classes:,} classes; {width} wide and {height} high; {kinds}."

    def _kinds(self) -> tuple[dict[str, int], dict[str, int]]:
        return self.images.formats, self.images.modes


def result_of(subject: Subject, findings: list[Finding]) -> CheckResult:
    """Return the result of the checks of a dataset."""
    names = subject.data.label_names
    splits = {}
    for role, counts in class_counts(subject).items():
        readable = int(subject.scans[role].looks["readable"].sum())
        unreadable = len(subject.data.left_out.get(role, ())) + len(subject.scans[role].errors)
        by_name = dict(zip(names, counts, strict=True))
        splits[role] = SplitFacts(subject.data.split_names[role], readable, unreadable, by_name)
    looks = subject.looks[subject.looks["readable"]]
    images = ImageFacts(
        _least_median_greatest(looks["width"]),
        _least_median_greatest(looks["height"]),
        _counts(looks["mode"]),
        _counts(looks["format"]),
    )
    return CheckResult(without_private_text(subject.data.source, Path.cwd()), splits, images, findings)


def _range(least: int, median: int, greatest: int) -> str:
    return f"{least:,}" if least == greatest else f"{least:,} to {greatest:,} (median {median:,})"


def _least_median_greatest(values: npt.NDArray[np.int32]) -> tuple[int, int, int]:
    return int(values.min()), int(np.median(values)), int(values.max())


def _counts(values: npt.NDArray[np.str_]) -> dict[str, int]:
    """Return how often each value is there, the most frequent first."""
    return dict(Counter(map(str, values.tolist())).most_common())
