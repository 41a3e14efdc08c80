"""The checks of a dataset, in the order in which their findings are told. A new one is a function and a line here."""

from __future__ import annotations

from collections.abc import Callable

from hf_finetune.checks.classes import check_classes, check_notes
from hf_finetune.checks.finding import Finding, Severity
from hf_finetune.checks.form import check_form, check_readable
from hf_finetune.checks.labels import check_labels
from hf_finetune.checks.names import check_groups
from hf_finetune.checks.outliers import check_blank, check_outliers, check_unlike
from hf_finetune.checks.same_images import check_same_images
from hf_finetune.checks.subject import Subject

CHECKS: list[Callable[[Subject], list[Finding]]] = [
    check_same_images,
    check_groups,
    check_readable,
    check_blank,
    check_labels,
    check_classes,
    check_form,
    check_outliers,
    check_unlike,
    check_notes,
]


def run_checks(subject: Subject) -> list[Finding]:
    """Return the findings of all checks, those that matter most first."""
    findings = [finding for check in CHECKS for finding in check(subject)]
    return sorted(findings, key=lambda finding: list(Severity).index(finding.severity))
