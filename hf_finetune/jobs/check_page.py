"""The page of a check: the findings with the images that they are about."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from hf_finetune.checks.finding import Finding, ImageRef, Severity
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.decoding import UnreadableImage, decode_image
from hf_finetune.errors import UserError
from hf_finetune.jobs.check_result import CheckResult
from hf_finetune.pages.page import (
    Block,
    Cell,
    Code,
    Column,
    Fact,
    Facts,
    Gallery,
    Note,
    Page,
    Paragraph,
    Section,
    Table,
    Thumbnail,
    shortened,
)
from hf_finetune.pages.thumbnails import thumbnail_sources

_SHOWN = 24  # groups of images of a finding
_OF_A_GROUP = 4  # images
_BUDGET = 3_500_000  # characters of all thumbnails


def check_page_name(path: Path) -> None:
    """Raise `UserError` where no page can be written to a file of this name."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output is {path}; use a name that ends in .html, or --json for a program.")
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; use the name of a file.")


def write_check_page(result: CheckResult, data: ImageDataset, path: Path) -> None:
    """Write the page of a result to a file.

    Args:
        result: The result.
        data: The dataset, which its images are read from again.
        path: The file.
    """
    page = Page(f"Check of {result.dataset}", result.described())
    page.sections.append(Section("At a glance", [_verdict(result), _facts(result)]))
    for severity in Severity:
        blocks = [block for finding in result.findings if finding.severity is severity for block in _shown(finding)]
        if blocks:
            page.sections.append(Section(severity.value, blocks))
    page.sections.append(Section("Classes", [_classes(result)]))
    page.images = _thumbnails(result.findings, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.write(path)


def _verdict(result: CheckResult) -> Note:
    return Note(result.verdict, "warning" if result.falsified else "note")


def _facts(result: CheckResult) -> Facts:
    facts = [Fact(role, f"{split.images:,}", "images that can be read") for role, split in result.splits.items()]
    counts = [Fact(severity.value, str(sum(finding.severity is severity for finding in result.findings)), "findings")
              for severity in Severity]  # fmt: skip
    return Facts([*facts, *counts])


def _shown(finding: Finding) -> list[Block]:
    """Return a finding as blocks: what it is, what to do, and its images or lines."""
    blocks: list[Block] = [Paragraph(finding.text)]
    if finding.advice:
        blocks.append(Note(finding.advice))
    groups = finding.groups[:_SHOWN]
    if any(group.images for group in groups):
        blocks.append(Gallery([_key(finding, image) for group in groups for image in group.images[:_OF_A_GROUP]]))
    elif groups:
        blocks.append(Code("\n".join(shortened(group.text) for group in groups)))
    if len(finding.groups) > len(groups):
        blocks.append(Paragraph(f"Shown: the first {len(groups)}. --json lists more."))
    return blocks


def _key(finding: Finding, image: ImageRef) -> str:
    return f"{finding.check}-{image.role}-{image.row}"


def _thumbnails(findings: Iterable[Finding], data: ImageDataset) -> dict[str, Thumbnail]:
    lines: dict[str, list[str]] = {}
    images: dict[str, PIL.Image.Image | None] = {}
    for finding in findings:
        for group in finding.groups[:_SHOWN]:
            for image in group.images[:_OF_A_GROUP]:
                key = _key(finding, image)
                said = group.text or image.label
                lines[key] = [shortened(image.name), f"{image.role}: {said}"]
                images[key] = _read(data, image)
    sources = thumbnail_sources(list(images.values()), _BUDGET)
    return {key: Thumbnail(source, lines[key]) for key, source in zip(images, sources, strict=True)}


def _read(data: ImageDataset, image: ImageRef) -> PIL.Image.Image | None:
    try:
        return decode_image(data.sources[image.role][image.row]["image"])
    except UnreadableImage:
        return None


def _classes(result: CheckResult) -> Table:
    roles = list(result.splits)
    largest = {role: max([1, *result.splits[role].classes.values()]) for role in roles}
    rows = []
    for name in result.splits[roles[0]].classes:
        counts = {role: result.splits[role].classes[name] for role in roles}
        cells = [Cell(f"{count:,}", count, count / largest[role]) for role, count in counts.items()]
        rows.append([Cell(shortened(name)), *cells])
    return Table([Column("class"), *(Column(role, number=True) for role in roles)], rows)
