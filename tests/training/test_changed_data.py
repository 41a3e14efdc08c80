"""A run resumes with its data, wherever they are now, and with no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hf_finetune.cli.main import main
from hf_finetune.data.fingerprint import FINGERPRINT_FILE
from hf_finetune.training.extensions.epochs import SecondEpochCallback
from tests.helpers.tiny import write_recipe

pytestmark = pytest.mark.slow


class Cut(Exception):
    """Ends a run in its second epoch, as a power failure would."""


@pytest.fixture
def unfinished(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a run on a copy of the images that was cut."""
    copy = shutil.copytree(image_folder, tmp_path / "images")
    recipe = write_recipe(tmp_path, num_train_epochs=2)
    command = ["train", "--recipe", str(recipe), "--output_dir", str(tmp_path / "output"), "--dataset"]

    def cut(*_: object, **__: object) -> None:
        raise Cut

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(SecondEpochCallback, "on_epoch_begin", cut_later(cut))
        main([*command, str(copy)])
    assert (tmp_path / "output" / FINGERPRINT_FILE).is_file()
    return command


def cut_later(cut):
    """A hook that lets the first epoch pass."""
    epochs: list[int] = []

    def on_epoch_begin(*args: object, **kwargs: object) -> None:
        epochs.append(1)
        if len(epochs) == 2:
            cut()

    return on_epoch_begin


def test_swapped_images_are_refused(unfinished: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = sorted((tmp_path / "images" / "train").rglob("*.png"))
    content = images[0].read_bytes()
    images[0].write_bytes(images[-1].read_bytes())
    images[-1].write_bytes(content)
    capsys.readouterr()
    assert main([*unfinished, str(tmp_path / "images")]) == 2
    error = capsys.readouterr().err
    assert "2 images of train have other contents, the first is train/blue/" in error and error.count("\n") == 1


@pytest.mark.parametrize("gone", [True, False])
def test_a_moved_or_copied_folder_resumes(
    unfinished: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, gone: bool
) -> None:
    elsewhere = tmp_path / "another disk" / "pets"
    shutil.copytree(tmp_path / "images", elsewhere)
    if gone:
        shutil.rmtree(tmp_path / "images")
    capsys.readouterr()
    assert main([*unfinished, str(elsewhere)]) == 0
    printed = capsys.readouterr().out
    assert f"The run began with dataset {tmp_path / 'images'}; {elsewhere} is compared with it." in printed
    assert "resumes from checkpoint" in printed
    assert not (tmp_path / "output" / FINGERPRINT_FILE).exists()


def test_another_dataset_is_refused(unfinished: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "images" / "train" / "red").rename(tmp_path / "images" / "train" / "crimson")
    (tmp_path / "images" / "test" / "red").rename(tmp_path / "images" / "test" / "crimson")
    (tmp_path / "images").rename(tmp_path / "others")
    capsys.readouterr()
    assert main([*unfinished, str(tmp_path / "others")]) == 2
    assert "the class red is called crimson" in capsys.readouterr().err
