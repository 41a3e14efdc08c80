"""Classes: how many images each has, and what was said of them and of the source when the dataset was opened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hf_finetune.checks.finding import Finding, Severity
from hf_finetune.checks.subject import Subject
from hf_finetune.data.images.header_check import describe_unreadable
from hf_finetune.training.balance import ClassCounts, describe_imbalance


def class_counts(subject: Subject) -> dict[str, list[int]]:
    """Return by role how many images each class has, by class id; unreadable ones do not count."""
    names, labels = subject.data.label_names, subject.labels
    counts = {}
    for place, role in enumerate(subject.roles):
        own = labels[(subject.role_of == place) & subject.looks["readable"]]
        counts[role] = (own.sum(axis=0) if own.ndim == 2 else np.bincount(own, minlength=len(names))).tolist()
    return counts


def check_classes(subject: Subject) -> list[Finding]:
    """Tell of classes of very different sizes."""
    counts = class_counts(subject).get("train")
    if counts is None or subject.data.task.several:
        return []
    note = describe_imbalance(ClassCounts(subject.data.label_names, np.array(counts)))
    if note is None:
        return []
    text, _, advice = note.removeprefix("Note: ").partition(". ")
    return [Finding("imbalance", Severity.NOTE, f"{text[0].upper()}{text[1:]}.", advice)]


def check_notes(subject: Subject) -> list[Finding]:
    """Pass on what was noted when the dataset was opened, but for what other checks tell.

    Among it are classes that a split lacks, and names of classes that differ only by case or blanks.
    """
    data = subject.data
    final = replace(data, notes=[])
    final.note_final_split()  # of a training without a held-out part, which this is not
    told = {*final.notes, *data.shared_groups}
    if data.bad_images:
        told.add(f"{describe_unreadable(data.bad_images, left_out=True)}.")
    return [Finding("note", Severity.NOTE, note) for note in data.notes if note not in told]
