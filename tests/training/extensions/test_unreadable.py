"""Images that cannot be loaded, without a Trainer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_finetune.errors import LoadingError, UserError
from hf_finetune.training.extensions.unreadable import UnreadableImages
from tests.helpers.checkpoints import save


def test_the_line_says_whether_the_run_can_resume(tmp_path: Path) -> None:
    extension = UnreadableImages(None, tmp_path)
    with pytest.raises(UserError, match=r"^It is gone\. No checkpoint was due yet\.$"), extension.loading():
        raise LoadingError("It is gone.")
    save(tmp_path, 5)
    expected = r"^It is gone\. The checkpoints stay, and the same command resumes the run\.$"
    with pytest.raises(UserError, match=expected), extension.loading(), extension.loading():
        raise LoadingError("It is gone.")


def test_an_evaluation_alone_has_nothing_to_resume() -> None:
    with pytest.raises(LoadingError, match=r"^It is gone\.$"), UnreadableImages(None, None).loading():
        raise LoadingError("It is gone.")


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="a mistake"), UnreadableImages(None, None).loading():
        raise ValueError("a mistake")


def test_it_knows_the_unreadable_images() -> None:
    assert UnreadableImages(None, None).unreadable_images() == []
    images = SimpleNamespace(found=lambda: ["cats/3.jpg (cut short)"])
    assert UnreadableImages(images, None).unreadable_images() == ["cats/3.jpg (cut short)"]
