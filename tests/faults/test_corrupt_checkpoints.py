"""Checkpoints that were damaged after they were written: named, set aside, passed over, and the run ends equal."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.child import SAVES
from tests.faults.harness import Interruption, assert_same_end, checkpoints, start, wait
from tests.helpers.tiny import write_recipe

pytestmark = pytest.mark.faults

_FILES = {
    "config.json",
    "manifest.json",
    "model.safetensors",
    "optimizer.pt",
    "preprocessor_config.json",
    "rng_state.pth",
    "resume_state.json",
    "scheduler.pt",
    "trainer_state.json",
}


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    # In the manifest a digit of the first size; else in the middle.
    place = content.index(b"bytes") + 8 if file.name == "manifest.json" else len(content) // 2
    content[place] ^= 1
    file.write_bytes(content)


def delete(file: Path) -> None:
    file.unlink()


@pytest.fixture(scope="module")
def command(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    recipe = write_recipe(
        tmp_path_factory.mktemp("recipe"),
        global_batch_size=4,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=8,
        eval_steps=8,
        save_total_limit=3,
    )
    return ["--recipe", str(recipe), "--dataset", str(image_folder)]


@pytest.fixture(scope="module")
def killed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed when it began to write its fifth checkpoint."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    children, shared = start([*command, "--output_dir", str(folder)], folder.with_suffix(".log"))
    Interruption(signal.SIGKILL, 0.0, SAVES, 5).strike(children, shared)
    wait(children)
    newest = checkpoints(folder)[-1]
    assert {path.name for path in newest.iterdir()} == _FILES and len(checkpoints(folder)) == 3
    return folder


def go_on(command: list[str], folder: Path) -> str:
    children, _ = start([*command, "--output_dir", str(folder)], folder.with_suffix(".log"))
    codes = wait(children)
    said = folder.with_suffix(".log").read_text()
    assert codes == [0], said[-3000:]
    return said


@pytest.mark.parametrize("damage", [cut_short, flip_a_byte, delete])
@pytest.mark.parametrize("name", sorted(_FILES))
def test_a_corrupt_checkpoint_is_passed_over(command, undisturbed, killed, tmp_path, name, damage):
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    earlier, newest = checkpoints(folder)[-2:]
    damage(newest / name)
    said = go_on(command, folder)
    assert f"Note: {newest.name} is corrupt: " in said and f"it is set aside as corrupt-{newest.name}." in said
    told = said.split(f"Note: {newest.name} is corrupt: ")[1].split("; it is set aside")[0]
    assert name in told or name == "manifest.json"  # by a wrong manifest, another file seems to be corrupt
    assert f"it resumes from {earlier.name}." in said
    assert (folder / f"corrupt-{newest.name}").is_dir()
    assert_same_end(folder, undisturbed)


@pytest.mark.parametrize("whole", [1, 0])
def test_all_newest_ones_are_corrupt(command, undisturbed, killed, tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    corrupt = checkpoints(folder)[whole:]
    for checkpoint, damage in zip(corrupt, (cut_short, flip_a_byte, delete), strict=False):
        damage(checkpoint / "optimizer.pt")
    said = go_on(command, folder)
    for checkpoint in corrupt:
        assert f"Note: {checkpoint.name} is corrupt: optimizer.pt" in said
    assert ("it resumes from" in said) == bool(whole)
    assert_same_end(folder, undisturbed)
