"""What several tests of faults share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import run_undisturbed


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by the module's `command` that nothing befell."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_undisturbed(command, folder, 1)
    return folder
