"""Source files, parsed once for all tests that look at them."""

import ast
from functools import cache
from pathlib import Path


@cache
def parsed(path: Path) -> ast.Module:
    """Return the module of a file, which no test changes."""
    return ast.parse(path.read_text())
