"""The versions of make test-lowest are the lower bounds of setup.cfg."""

from __future__ import annotations

import configparser
from pathlib import Path

TESTS = Path(__file__).parent


def test_the_lowest_versions_are_the_bounds_of_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(TESTS.parent / "setup.cfg")
    required = setup["options"]["install_requires"].split() + setup["options.extras_require"]["dev"].split()
    lowest = [requirement.split(",")[0].replace(">=", "==") for requirement in required]
    lines = (TESTS / "lowest.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == lowest
