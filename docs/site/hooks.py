"""Hooks of the documentation site: pages from outside docs/, links out of docs/, and titles of code blocks.

README.md is the home page and benchmarks/RESULTS.md is a page, so that each text exists once. On the code host a link
may lead to any file of the repository; on the site it leads to a page, or is plain text where there is none.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
# Files of the repository that the site shows, and what they are called there.
SHOWN = {
    "README.md": "index.md",
    "benchmarks/RESULTS.md": "results.md",
    "benchmarks/long_run.png": "images/long_run.png",
    "LICENSE": "license.txt",
}
SOURCES = {page: path for path, page in SHOWN.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside docs/."""
    from mkdocs.structure.files import File  # the tests read this module without mkdocs

    for path, page in SHOWN.items():
        files.append(File.generated(config, page, content=(REPOSITORY / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt the links and the code blocks of a page to the site."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        _titled(part) if part.startswith("```") else _linked(part, source, page.file.src_uri) for part in parts
    )


def _titled(block: str) -> str:
    """Turn `yaml recipe [append] NAME` and `python config NAME` into a title, and `text output` into `text`."""
    block = re.sub(r"^```(yaml|python) (?:recipe|config) (?:append )?(\S+)", r'```\1 title="\2"', block)
    return re.sub(r"^```text output", "```text", block)


def _linked(text: str, source: str, page: str) -> str:
    """Rewrite the links of a text: `source` is its file in the repository, `page` its file on the site."""

    def rewrite(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        path, hash_mark, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        shown = SHOWN.get(wanted) or (wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
        if shown is None:
            return label
        return f"{mark}[{label}]({posixpath.relpath(shown, posixpath.dirname(page) or '.')}{hash_mark}{anchor})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", rewrite, text)
