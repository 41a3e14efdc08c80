"""Runs with a list of transforms by name: the run of the list that it shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from hf_finetune import finetune
from hf_finetune.errors import UserError
from tests.helpers.tiny import write_recipe


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "heavy"])
def test_a_run_is_that_of_the_list_that_it_shows(name: str, image_folder: Path, tmp_path: Path, caplog) -> None:
    changes = {"num_train_epochs": 1, "train_transforms": None}
    recipe = write_recipe(tmp_path, **changes, augmentation=name)
    with caplog.at_level("INFO", "hf_finetune"):
        named = finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / "named"))
    start = f"Augmentation {name}, which is train_transforms: "
    (line,) = [entry for entry in caplog.messages if entry.startswith(start)]
    recipe = write_recipe(tmp_path, **{**changes, "train_transforms": yaml.safe_load(line.removeprefix(start))})
    listed = finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / "listed"))
    for (key, one), other in zip(named.model.state_dict().items(), listed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kept"), [("none", True), ("light", False)])
def test_features_of_a_frozen_backbone_are_kept_where_nothing_is_random(
    name: str, kept: bool, image_folder: Path, tmp_path: Path, datasets_cache: Path, caplog
) -> None:
    changes = {"num_train_epochs": 1, "train_transforms": None, "freeze": ["backbone"], "augmentation": name}
    with caplog.at_level("INFO", "hf_finetune"):
        recipe = write_recipe(tmp_path, **changes)
        finetune(recipe, dataset=str(image_folder), output_dir=str(tmp_path / "output"))
    assert ("Features of train" in caplog.text) == kept
    assert ("with --train_transforms null and no augmentation" in caplog.text) != kept


def test_a_function_takes_the_place_of_a_recipes_and_not_of_the_calls(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^train_transforms and augmentation exclude each other"):
        finetune(write_recipe(tmp_path), dataset=str(image_folder), train_transforms=lambda x: x, augmentation="light")
