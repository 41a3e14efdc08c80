"""The options that all comparisons with other programs have."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.launch import REPOSITORY
from benchmarks.peers.scripts import fetch_scripts


def parser_of(prog: str, description: str, peers: Sequence[str], results: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all comparisons have.

    Args:
        prog: The command.
        description: Its first line.
        peers: The programs to choose from; all of them by default.
        results: The default of `--results`.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared", help="as benchmarks.md describes")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--scripts", type=Path, help="folder with the peers' scripts; absent, fetched into build/peers")
    parser.add_argument("--peers", nargs="+", default=list(peers), choices=list(peers), metavar="PEER")
    parser.add_argument("--results", type=Path, default=Path(results))
    return parser


def parse(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with the scripts fetched where no folder of them is given."""
    options = parser.parse_args(words)
    if options.scripts is None:
        options.scripts = REPOSITORY / "build" / "peers"
        fetch_scripts(options.scripts)
    options.scripts = options.scripts.resolve()
    return options
