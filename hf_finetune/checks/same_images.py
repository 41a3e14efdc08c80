"""Images that are there more than once: in two splits, twice in one, or with two labels."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from hf_finetune.checks.finding import Finding, Severity, names_of
from hf_finetune.checks.near_duplicates import Pairs, connected, near_duplicates
from hf_finetune.checks.subject import Rows, Subject, counted
from hf_finetune.data.duplicates import find_shared

_COPIES = "saved or resized anew"


def check_same_images(subject: Subject) -> list[Finding]:
    """Look for the same image, exactly or nearly, within and across splits, and for copies with different labels."""
    looks = subject.looks
    exact = _Copies(subject, _equal_pairs(np.where(looks["readable"], looks["content"], 0)))
    first = np.ones(len(looks), bool)
    first[exact.pairs[:, 1]] = False  # one of each group is compared with others
    near = near_duplicates(looks["hash"], looks["thumbnail"], looks["colour"], looks["readable"] & first)
    copies = _Copies(subject, np.concatenate([exact.pairs, near]))
    return [
        *_exact_across(subject, exact),
        *_near_across(subject, exact, copies),
        *_two_labels(subject, exact, copies),
        *_within(subject, exact, copies),
    ]


def _equal_pairs(content: npt.NDArray[np.uint64]) -> Pairs:
    """Return pairs that connect equal hashes, the later row second; 0 is equal to nothing."""
    order = np.argsort(content, kind="stable")
    same = (content[order[1:]] == content[order[:-1]]) & (content[order[1:]] != 0)
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


class _Copies:
    """Images that are copies of each other, directly or by way of others.

    Attributes:
        pairs: Which are copies, int64 (pairs, 2).
        group_of: The group of each image, int64 (images,); one that has no copy is in group -1, which is the last.
        in_role: How many images of each split a group has, int64 (groups + 1, splits).
    """

    def __init__(self, subject: Subject, pairs: Pairs) -> None:
        count = len(subject.looks)
        component = connected(pairs, count)
        copied = np.bincount(component)[component] > 1
        self.pairs = pairs
        self.group_of = np.full(count, -1, np.int64)
        self.group_of[copied] = np.unique(component[copied], return_inverse=True)[1].reshape(-1)
        self.in_role = np.zeros((int(self.group_of.max(initial=-1)) + 2, len(subject.roles)), np.int64)
        np.add.at(self.in_role, (self.group_of[copied], subject.role_of[copied]), 1)

    def members(self, groups: Rows) -> list[Rows]:
        """Return the rows of some groups."""
        rows = np.flatnonzero(np.isin(self.group_of, groups))
        rows = rows[np.argsort(self.group_of[rows], kind="stable")]
        return np.split(rows, np.flatnonzero(np.diff(self.group_of[rows])) + 1) if len(rows) else []


def _exact_across(subject: Subject, exact: _Copies) -> list[Finding]:
    hashes = np.where(subject.looks["readable"], subject.looks["content"], np.uint64(0))
    by_role = {role: hashes[subject.role_of == place] for place, role in enumerate(subject.roles)}
    shared = find_shared(subject.data, by_role)
    if shared is None:
        return []
    groups = np.flatnonzero((exact.in_role > 0).sum(axis=1) > 1)
    advice = "--drop_duplicates leaves those of train out of it." if shared.of_train.any() else "Remove them from one."
    return [
        Finding(
            "duplicates_across_splits",
            Severity.FALSIFIES,
            f"{shared.sentence}, so the figures are too good.",
            advice,
            len(groups),
            subject.together(exact.members(groups)),
        )
    ]


def _near_across(subject: Subject, exact: _Copies, copies: _Copies) -> list[Finding]:
    counts, rows = [], np.zeros(len(subject.looks), bool)
    for first, second in combinations(range(len(subject.roles)), 2):
        here = subject.role_of == first
        here &= (copies.in_role[copies.group_of, second] > 0) & ~(exact.in_role[exact.group_of, second] > 0)
        if here.any():
            are = "is" if here.sum() == 1 else "are"
            names = subject.roles[first], subject.roles[second]
            counts.append(f"{counted(int(here.sum()))} of {names[0]} {are} also in {names[1]}, {_COPIES}")
            rows |= here
    if not counts:
        return []
    groups = np.unique(copies.group_of[rows])
    shown = subject.together(copies.members(groups))
    return [
        Finding(
            "near_duplicates_across_splits",
            Severity.FALSIFIES,
            f"Nearly the same image is in two splits: {'; '.join(counts)} ({names_of(shown)}), so the figures are too"
            " good.",
            "Remove them from one of both: --json lists them.",
            len(groups),
            shown,
        )
    ]


def _two_labels(subject: Subject, exact: _Copies, copies: _Copies) -> list[Finding]:
    findings = []
    told: Rows = np.empty(0, np.int64)
    for name, severity, found, words in (
        ("contradictory_labels", Severity.FALSIFIES, exact, "The same image has different labels"),
        ("contradictory_labels_of_near_duplicates", Severity.PROBLEM, copies, "Copies of an image have other labels"),
    ):
        groups = [rows for rows in found.members(_with_two_labels(subject, found)) if not np.isin(rows, told).any()]
        if groups:
            shown = subject.together(groups)
            first = ", ".join(f"{image.name} is {image.label}" for image in shown[0].images[:3])
            text = f"{words}: {counted(len(groups))}, such as {first}."
            advice = "Correct or remove them: --json lists them."
            findings.append(Finding(name, severity, text, advice, len(groups), shown))
            told = np.concatenate(groups)
    return findings


def _with_two_labels(subject: Subject, copies: _Copies) -> Rows:
    rows = np.flatnonzero(copies.group_of >= 0)
    pairs = np.unique(np.stack([copies.group_of[rows], subject.label_codes[rows]], axis=1), axis=0)
    groups, labels = np.unique(pairs[:, 0], return_counts=True)
    several: Rows = groups[labels > 1]
    return several


def _within(subject: Subject, exact: _Copies, copies: _Copies) -> list[Finding]:
    told = []
    for place, role in enumerate(subject.roles):
        same, all_of_them = (int(np.maximum(found.in_role[:, place] - 1, 0).sum()) for found in (exact, copies))
        if all_of_them:
            again = all_of_them - same
            kinds = [f"{same:,} the same"] * (same > 0) + [f"{again:,} {_COPIES}"] * (again > 0)
            told.append(f"{counted(all_of_them)} of {role} more than once ({', '.join(kinds)})")
    if not told:
        return []
    groups = np.flatnonzero((copies.in_role > 1).any(axis=1))
    shown = subject.together(copies.members(groups))
    held_out = subject.roles == ["train"]
    return [
        Finding(
            "duplicates_within_a_split",
            Severity.PROBLEM if held_out else Severity.NOTE,
            f"There are {'; '.join(told)}, such as {names_of(shown, 1)}. They count as often"
            f"{', and a part of train that is held out would share them' * held_out}.",
            "--drop_duplicates leaves what is exactly the same in both out of train." if held_out else "",
            len(groups),
            shown,
        )
    ]
