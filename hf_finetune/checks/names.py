"""Groups that file names show, such as patient12_a.png and patient12_b.png, on both sides of a split.

File names are no proof, so only what is hardly a coincidence counts. A group begins with letters and a number, such as
patient12, and a separator follows. It is not told where it is a date, the beginning of most names of a class or of more
than a twentieth of all, or where both splits have the same name in it, since then each numbers its own images.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import PurePosixPath

import numpy as np

from hf_finetune.checks.finding import Finding, Severity, names_of
from hf_finetune.checks.subject import Subject, counted

_GROUP = re.compile(r"(.*?[A-Za-z][-_ ]?\d+)[-_. ]+\S")
_DATE = re.compile(r"(?:19|20)\d{2}[-_]?\d{2}")
_DISTINCTIVE = re.compile(r"(?=.*[A-Za-z])(?=.*\d{4})")  # of a whole name: letters, and four digits in a row
_LARGEST = 0.05  # of all images, as a part of 1
_OF_CLASS = 0.5
_NUMBERED = 0.5  # of the smaller split's names: where as many are in the other too, each numbers its own


def check_groups(subject: Subject) -> list[Finding]:
    """Tell of groups in two splits: those of `group_column`, and else those that names show."""
    if subject.group_column is not None:
        return [
            Finding("groups_across_splits", Severity.FALSIFIES, note.removeprefix("Warning: "), _ADVICE)
            for note in subject.data.shared_groups
        ]
    return [*_prefixes(subject), *_stems(subject)]


_ADVICE = "Give each group to one split; in a table, --group_column keeps the groups of train apart."


def _prefixes(subject: Subject) -> list[Finding]:
    stems = [PurePosixPath(path.replace("\\", "/")).stem for path in subject.paths()]
    members: dict[str, list[int]] = defaultdict(list)
    for row, stem in enumerate(stems):
        if (found := _GROUP.match(stem)) is not None and not _DATE.search(found[1]):
            members[found[1]].append(row)
    of_class = Counter(subject.label_codes.tolist())
    groups = []
    for rows in members.values():
        if len(rows) > max(2, _LARGEST * len(stems)) or len(set(subject.role_of[rows].tolist())) < 2:
            continue
        label, most = Counter(subject.label_codes[rows].tolist()).most_common(1)[0]
        names = {(stems[row], int(subject.role_of[row])) for row in rows}
        if most < _OF_CLASS * of_class[label] and len({stem for stem, _ in names}) == len(names):
            groups.append(np.array(rows))
    if not groups:
        return []
    images = sum(map(len, groups))
    shown = subject.together(groups)
    text = (
        f"By their names, images of one group are in two splits: {counted(len(groups), 'group')} of {images:,} images"
        f" ({names_of(shown, 2, ', ')}). If they show one patient, animal or scene, the figures are too good."
    )
    return [Finding("groups_across_splits", Severity.FALSIFIES, text, _ADVICE, len(groups), shown)]


def _stems(subject: Subject) -> list[Finding]:
    """Return a finding on names that two splits have, where this is not how each numbers its images."""
    stems: list[dict[str, int]] = [{} for _ in subject.roles]
    for row, path in enumerate(subject.paths()):
        stems[subject.role_of[row]][PurePosixPath(path.replace("\\", "/")).stem] = row
    pairs = []
    for second in range(len(stems)):
        for first in range(second):
            shared = [stem for stem in stems[second] if stem in stems[first]]
            if len(shared) < _NUMBERED * min(len(stems[first]), len(stems[second])):
                pairs += [(stems[first][stem], stems[second][stem]) for stem in shared if _DISTINCTIVE.match(stem)]
    if not pairs:
        return []
    shown = subject.together(map(np.array, pairs))
    text = f"{counted(len(pairs), 'name')} of a file {'is' if len(pairs) == 1 else 'are'} in two splits"
    return [
        Finding(
            "names_across_splits",
            Severity.PROBLEM,
            f"{text} ({names_of(shown, 2, ', ')}), which may be images of one thing.",
            "Look at them.",
            len(pairs),
            shown,
        )
    ]
