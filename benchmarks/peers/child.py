"""The options of the scripts that call a peer's function, where it has no command for it."""

from __future__ import annotations

import argparse
from pathlib import Path


def child_parser() -> argparse.ArgumentParser:
    """Return a parser of what all of these scripts are told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--decay", type=float)
    return parser
