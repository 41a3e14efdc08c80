"""Texts as Markdown: tables, blocks of code, and names and sentences that are shown as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_finetune.shown_text import printable


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its cells are texts, its heading is Markdown."""
    rules = ["---", *["---:"] * (len(heading) - 1)]
    lines = [heading, rules, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def block(language: str, text: str) -> str:
    """Return a block of code whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{printable(text.strip())}\n{fence}"


def prose(text: str) -> str:
    """Return a sentence or a title on one line, in which nothing is a link, HTML or code."""
    return re.sub(r"([\\`\[\]<>&])", r"\\\1", printable(" ".join(text.split())))


def escape(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", printable(" ".join(text.split())))
