"""The output folder: new, to be continued, or somebody's results that stay."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from hf_finetune.data.fingerprint import FINGERPRINT_FILE
from hf_finetune.errors import UserError
from hf_finetune.training.checkpoints.run_folder import check_unchanged, find_resumable, prepare_folder
from hf_finetune.training.checkpoints.store import publish

VALUES = {"dataset": "digits", "learning_rate": 0.1, "lr_milestones": [15]}


def save_checkpoint(folder: Path, step: int, state: str = '{"global_step": 1}') -> Path:
    unfinished = folder / ".unfinished" / f"checkpoint-{step}"
    unfinished.mkdir(parents=True)
    save_file({}, unfinished / "model.safetensors")
    torch.save({"state": {}, "param_groups": []}, unfinished / "optimizer.pt")
    torch.save({}, unfinished / "scheduler.pt")
    (unfinished / "trainer_state.json").write_text(state)
    return publish(unfinished, folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run that was interrupted after two checkpoints."""
    prepare_folder(tmp_path / "run", yaml.safe_dump(VALUES), overwrite=False)
    save_checkpoint(tmp_path / "run", 90)
    save_checkpoint(tmp_path / "run", 100)
    return tmp_path / "run"


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_or_empty_folder_is_a_new_run(tmp_path: Path, there: bool, overwrite: bool):
    folder = tmp_path / "a" / "b"
    if there:
        folder.mkdir(parents=True)
    assert find_resumable(folder, VALUES, overwrite) is None
    assert folder.exists() == there  # it is only looked at
    prepare_folder(folder, yaml.safe_dump(VALUES), overwrite)
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == VALUES


def test_an_interrupted_run_goes_on_from_its_newest_checkpoint(folder: Path):
    assert find_resumable(folder, VALUES, overwrite=False) == folder / "checkpoint-100"  # not by the names' order


def test_a_corrupt_checkpoint_is_named_set_aside_and_passed_over(folder: Path, logged: list[str]):
    (folder / "checkpoint-100/optimizer.pt").unlink()
    assert find_resumable(folder, VALUES, False) == folder / "checkpoint-90"
    (folder / "checkpoint-90/trainer_state.json").write_text('{"global_step"')
    assert find_resumable(folder, VALUES, False) is None
    assert logged == [
        "Note: checkpoint-100 is corrupt: optimizer.pt is missing; it is set aside as corrupt-checkpoint-100.",
        "Note: checkpoint-90 is corrupt: trainer_state.json has 14 of 18 bytes; it is set aside as"
        " corrupt-checkpoint-90.",
    ]
    assert (folder / "corrupt-checkpoint-100").is_dir() and (folder / "corrupt-checkpoint-90").is_dir()


def test_a_range_that_was_found_is_not_stated_again_but_not_replaced_either(tmp_path: Path):
    prepare_folder(tmp_path / "run", yaml.safe_dump({**VALUES, "value_range": [0, 4095]}), overwrite=False)
    checkpoint = save_checkpoint(tmp_path / "run", 90)
    for values in (VALUES, {**VALUES, "value_range": [0, 4095]}):
        assert find_resumable(tmp_path / "run", values, overwrite=False) == checkpoint
    with pytest.raises(UserError, match=r"unfinished run with value_range \[0, 4095\], not \[0, 65535\]"):
        find_resumable(tmp_path / "run", {**VALUES, "value_range": [0, 65535]}, overwrite=False)


def test_what_a_recipe_leaves_to_the_run_may_have_been_found_as_any_value(tmp_path: Path):
    prepare_folder(tmp_path / "run", yaml.safe_dump({**VALUES, "num_train_epochs": 13.0}), overwrite=False)
    checkpoint = save_checkpoint(tmp_path / "run", 90)
    for epochs in ("auto", 13):
        assert find_resumable(tmp_path / "run", {**VALUES, "num_train_epochs": epochs}, overwrite=False) == checkpoint
    with pytest.raises(UserError, match=r"unfinished run with num_train_epochs 13.0, not 12"):
        find_resumable(tmp_path / "run", {**VALUES, "num_train_epochs": 12}, overwrite=False)


def test_where_and_how_it_runs_may_change_but_not_what_it_computes(folder: Path):
    other_place = {**VALUES, "dataset_path": "/elsewhere", "dataloader_num_workers": 4, "logging_steps": 1}
    assert find_resumable(folder, other_place, overwrite=False) is not None
    for changed in ({**VALUES, "learning_rate": 0.2}, {**VALUES, "momentum": 0.5}, {"dataset": "digits"}):
        with pytest.raises(UserError, match="holds an unfinished run with .*, or --overwrite_output_dir"):
            find_resumable(folder, changed, overwrite=False)
    with pytest.raises(UserError, match=r"an unfinished run with learning_rate 0\.1, not 0\.2;"):
        find_resumable(folder, {**VALUES, "learning_rate": 0.2}, overwrite=False)


def test_a_kill_while_the_recipe_is_written_leaves_a_new_folder(tmp_path: Path):
    (tmp_path / ".recipe.yaml.unfinished").write_text("# The rec")
    assert find_resumable(tmp_path, VALUES, overwrite=False) is None
    prepare_folder(tmp_path, yaml.safe_dump(VALUES), overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_run_without_a_checkpoint_is_nothing_to_lose(tmp_path: Path):
    prepare_folder(tmp_path / "run", yaml.safe_dump(VALUES), overwrite=False)
    assert find_resumable(tmp_path / "run", {**VALUES, "learning_rate": 0.2}, overwrite=False) is None


def test_a_finished_run_is_left_alone_unless_told(folder: Path):
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="holds the results of a finished run; use another --output_dir, or"):
        find_resumable(folder, VALUES, overwrite=False)
    assert find_resumable(folder, VALUES, overwrite=True) is None


@pytest.mark.parametrize("recipe", [None, "learning_rate: 0.1\n", "_base_: digits\n", ""])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_other_files_is_never_touched(tmp_path: Path, recipe: str | None, overwrite: bool):
    (tmp_path / "thesis.txt").write_text("mine")
    save_checkpoint(tmp_path, 5)
    if recipe is not None:
        (tmp_path / "recipe.yaml").write_text(recipe)
    with pytest.raises(UserError, match="holds no run of this package, so nothing is written or deleted there"):
        find_resumable(tmp_path, VALUES, overwrite)


def test_overwriting_removes_the_runs_own_things_and_nothing_else(folder: Path):
    for name in ("metrics.json", "model.safetensors", "config.json", "README.md", "notes.txt", "checkpoint-old.txt"):
        (folder / name).write_text("{}")
    (folder / "checkpoint-best").mkdir()
    (folder / "corrupt-checkpoint-80").mkdir()
    (folder / ".unfinished").mkdir(exist_ok=True)
    prepare_folder(folder, yaml.safe_dump({"seed": 1}), overwrite=True)
    assert {path.name for path in folder.iterdir()} == {
        "recipe.yaml", "notes.txt", "checkpoint-old.txt", "checkpoint-best",
    }  # fmt: skip
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == {"seed": 1}


@pytest.mark.parametrize("place", ["file", "file/run", "file/a/b"])
def test_a_file_in_the_way(tmp_path: Path, place: str):
    (tmp_path / "file").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"output_dir: .*file is a file; use a folder\.$"):
        find_resumable(tmp_path / place, VALUES, overwrite=False)


def test_a_folder_whose_name_is_not_utf_8(tmp_path: Path):
    with pytest.raises(UserError, match="r\udce4 is not in UTF-8, and safetensors writes to no such path; rename it"):
        find_resumable(tmp_path / "r\udce4", VALUES, overwrite=False)
    assert find_resumable(tmp_path / "r\u00e4 \u732b", VALUES, overwrite=False) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path):
    (tmp_path / "locked").mkdir(mode=0o500)
    for place in ("locked", "locked/run"):
        with pytest.raises(UserError, match="no permission to write in .*locked; use another --output_dir"):
            find_resumable(tmp_path / place, VALUES, overwrite=False)


def test_starting_anew_takes_the_exported_files_of_the_earlier_weights_away(tmp_path: Path):
    folder = tmp_path / "run"
    prepare_folder(folder, yaml.safe_dump(VALUES), overwrite=False)
    for name in ("model.onnx", "model_int8.onnx", "notes.txt"):
        (folder / name).touch()
    prepare_folder(folder, yaml.safe_dump(VALUES), overwrite=True)
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "notes.txt"}


def test_a_signed_address_is_not_kept_and_may_be_signed_anew(tmp_path: Path):
    address = "https://ann:pass@host/net.pth?X-Amz-Signature=one"
    prepare_folder(tmp_path / "run", yaml.safe_dump({"load_from": address}), overwrite=False)
    assert "pass" not in (text := (tmp_path / "run" / "recipe.yaml").read_text()) and "one" not in text
    checkpoint = save_checkpoint(tmp_path / "run", 1)
    anew = address.replace("one", "two")
    assert find_resumable(tmp_path / "run", {"load_from": anew}, overwrite=False) == checkpoint
    with pytest.raises(UserError, match=r"load_from .*host/net\.pth.* not .*host/other\.pth"):
        find_resumable(tmp_path / "run", {"load_from": anew.replace("net", "other")}, overwrite=False)


def test_a_run_that_was_killed_in_its_plots_is_not_finished(folder: Path):
    (folder / "metrics.json").write_text("{}")
    (folder / FINGERPRINT_FILE).touch()
    assert find_resumable(folder, VALUES, overwrite=False) == folder / "checkpoint-100"
    check_unchanged(folder, folder / "checkpoint-100", overwrite=False)
    (folder / FINGERPRINT_FILE).unlink()
    with pytest.raises(UserError, match="another run has used"):
        check_unchanged(folder, folder / "checkpoint-100", overwrite=False)
