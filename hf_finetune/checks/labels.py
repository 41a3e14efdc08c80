"""Labels that look wrong, by confident learning (`evaluation.label_suspects`) from probes.

Of the suspects, those are listed whose own label has a probability below 5 %.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hf_finetune.checks.finding import MOST_GROUPS, Finding, Group, Severity
from hf_finetune.checks.subject import OutOfFold, Rows, Subject, counted
from hf_finetune.evaluation.label_suspects import LEAST_ACCURACY, confident_disagreements

# Of the suspects of the measurement at `LEAST_ACCURACY` that are below this bound, 97 % are replaced labels at an
# accuracy of 90 %, 88 % at 87 %, 70 % at 73 %, 35 % at 56 % and 16 % at 33 %.
_LARGEST_OF_LABEL = 0.05
_MANY = 0.01  # of the labels: of MNIST and of CIFAR-10 as they are, 0.4 and 0.6 % are suspect


def check_labels(subject: Subject) -> list[Finding]:
    """List the labels that the probes confidently contradict, where the probes are good enough."""
    if subject.out_of_fold is None:
        return [Finding("label_suspects", Severity.NOTE, subject.not_probed)] if subject.not_probed else []
    probes = subject.out_of_fold
    how = f"{probes.folds} linear probes of {probes.model}, each on images that it has not seen"
    figures = {"out_of_fold_accuracy": probes.accuracy, "model": probes.model}
    if probes.accuracy < LEAST_ACCURACY:
        text = f"No label is called suspect: {how}, agree with {probes.accuracy:.1%} of the labels, too few to judge."
        advice = "Use --model with a network that knows such images."
        return [Finding("label_suspects", Severity.NOTE, text, advice, figures=figures)]
    enough = np.bincount(subject.labels, minlength=len(subject.data.label_names)) >= probes.folds
    judged = np.flatnonzero(subject.looks["readable"] & enough[subject.labels])
    places, classes = label_suspects(subject.labels[judged], probes.probabilities[judged])
    rows = judged[places]
    agree = f"{how}, agree with {probes.accuracy:.1%} of the labels"
    if not len(rows):
        return [Finding("label_suspects", Severity.NOTE, f"No label is suspect: {agree}.", figures=figures)]
    groups = [_suspect(subject, probes, *pair) for pair in zip(rows[:MOST_GROUPS], classes[:MOST_GROUPS], strict=True)]
    first = "; ".join(f"{group.images[0].name}: {group.text}" for group in groups[:3])
    text = f"{counted(len(rows), 'label')} of {len(judged):,} may be wrong ({first}): {agree}."
    advice = "Look at them before you change one: a rare but correct image looks like this too. --json lists them."
    severity = Severity.PROBLEM
    if len(rows) < _MANY * len(judged):
        severity, text = Severity.NOTE, f"{text[:-1]}. So few may as well be errors of the probes."
    return [Finding("label_suspects", severity, text, advice, len(rows), groups, figures)]


def _suspect(subject: Subject, probes: OutOfFold, row: int, class_id: int) -> Group:
    name = subject.data.label_names[class_id]
    text = f"{subject.label(row)}, rather {name} ({probes.probabilities[row, class_id]:.0%})"
    return Group([subject.image(int(row))], text)


def label_suspects(
    labels: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating]
) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Return the images whose label is suspect, the surest first, and the class that each seems to be.

    Args:
        labels: Class ids, (images,).
        probabilities: Out-of-fold probabilities, float (images, classes).

    Returns:
        Rows and class ids, each int64 (suspects,), by the normalized margin of the paper: the probability of the label
        less the greatest of the others.
    """
    rows, num_classes = np.arange(len(labels)), probabilities.shape[1]
    own = probabilities[rows, labels]
    every = np.arange(num_classes)[None]
    suspect, seems = confident_disagreements(labels, own, every, probabilities, num_classes)
    unlikely = own[suspect] < _LARGEST_OF_LABEL
    suspect, seems = suspect[unlikely], seems[unlikely]
    others = probabilities[suspect].copy()
    others[np.arange(len(suspect)), labels[suspect]] = -1
    order = np.argsort(own[suspect] - others.max(axis=1, initial=-1), kind="stable")
    return suspect[order], seems[order]
