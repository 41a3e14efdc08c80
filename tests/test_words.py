"""The project keeps to the field's own words: the first version's private ones do not come back."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.helpers.sources import parsed

REPOSITORY = Path(__file__).resolve().parents[1]

PRIVATE_WORDS = {
    r"rooms?": "package, module; space on a disk",
    r"corridors?": "package, module",
    r"porch(?:es)?": "entry point",
    r"verbs?": "command",
    r"pictures?": "image",
    r"torn": "corrupt",
    r"(?:goes|going|go|went) on": "resume, continue",
    r"rehears\w*": "sanity check, dry run",
    r"befall\w*|befell": "happen to",
    r"mend(?:s|ed|ing)?": "fix",
}
PATTERN = re.compile(r"\b(?:" + "|".join(PRIVATE_WORDS) + r")\b", re.IGNORECASE)

# Words of others: what is allowed in which file, and why.
ALLOWED: dict[str, tuple[str, ...]] = {}


def texts() -> list[Path]:
    """Return the files that a user or contributor reads."""
    found = [REPOSITORY / "README.md"]
    for folder in ("hf_finetune", "docs", "scripts", "benchmarks"):
        found += [
            path
            for path in (REPOSITORY / folder).rglob("*")
            if path.suffix in (".py", ".md", ".yaml", ".yml", ".sh", ".ipynb", ".txt", ".toml", ".css", ".html")
        ]
    return sorted(found)


def private_words(text: str, allowed: tuple[str, ...]) -> list[str]:
    """Return the lines, with their numbers, that use a private word outside of what is allowed."""
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        rest = line
        for quotation in allowed:
            rest = rest.replace(quotation, "")
        if PATTERN.search(rest):
            lines.append(f"{number}: {line.strip()}")
    return lines


def test_private_words_are_found():
    assert private_words("A Picture\nof it goes on.\nA verbose zoom, broom and check_room\n", ("no",)) == [
        "1: A Picture",
        "2: of it goes on.",
    ]
    assert not private_words("see `hotel-rooms.csv`", ("hotel-rooms.csv",))


def test_no_private_word_is_written():
    wrong = []
    for path in texts():
        name = path.relative_to(REPOSITORY).as_posix()
        wrong += [f"{name}:{line}" for line in private_words(path.read_text(), ALLOWED.get(name, ()))]
    advice = "; ".join(f"{word}: {instead}" for word, instead in PRIVATE_WORDS.items())
    assert not wrong, f"write instead: {advice}"


def test_each_exception_is_needed():
    for name, quotations in ALLOWED.items():
        text = (REPOSITORY / name).read_text()
        for quotation in quotations:
            assert quotation in text and PATTERN.search(quotation), f"{name}: {quotation}"


@pytest.mark.parametrize("folder", ["hf_finetune", "benchmarks", "tests/helpers"])
def test_a_module_docstring_says_what_is_in_it_not_where_it_stands(folder):
    """`data/labels.py` does not begin with "Data: " or "The data package: "."""
    wrong = []
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        first_line = (ast.get_docstring(parsed(path)) or "").partition("\n")[0]
        parent = re.escape(path.parent.name).replace("_", "[ _]")
        if path.parent.name != "hf_finetune" and re.match(rf"(?:the )?{parent}(?: \w+)?:", first_line, re.IGNORECASE):
            wrong.append(f"{path.relative_to(REPOSITORY)}: {first_line}")
    assert not wrong


@pytest.mark.parametrize("folder", ["hf_finetune", "benchmarks", "scripts", "tests/helpers"])
def test_a_docstring_of_a_function_is_an_imperative(folder):
    """As in "Return the figures", not "Returns the figures". A property is named like a thing."""
    wrong = []
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            first_line = (ast.get_docstring(node) or "").partition("\n")[0]
            if re.match(r"[A-Z]\w*[^s\W]s\b", first_line) and not is_property(node):
                wrong.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}: {first_line}")
    assert not wrong


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function is read like an attribute."""
    return any(isinstance(name, ast.Name) and "property" in name.id for name in node.decorator_list)
