"""What the tests of users' mistakes share: the command line in this process, and what it must answer to a mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hf_finetune.cli.main import main
from tests.helpers.tiny import write_recipe


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command line that holds a mistake; return the one line that answers it, its prefix taken off."""
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("hf-finetune: error: ") and error.count("\n") == 1 and "Traceback" not in error, error
    return error.removeprefix("hf-finetune: error: ").rstrip("\n")


@pytest.fixture
def refused(
    tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """`refused("--learning_rate", "fast")` adds these words to a right command, `train` with the tiny recipe on the
    coloured images, and returns the line that answers. No step may be trained and no file written. Names of the
    test's own files are relative: it runs in `tmp_path`.
    """
    from hf_finetune.training.trainer import ImageClassificationTrainer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageClassificationTrainer, "train", lambda *args, **kwargs: pytest.fail("training began"))
    recipe = write_recipe(tmp_path)

    def run(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        given = ["--recipe", str(recipe), "--dataset", str(image_folder), "--output_dir", "output"]
        line = refuse(capsys, "train", *given, *words)
        # The Trainer makes its folder; an empty one is as good as none.
        assert [path for path in sorted(tmp_path.rglob("*")) if path != tmp_path / "output"] == before
        return line

    return run
