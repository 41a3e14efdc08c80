"""The catalog's entries hold together, and one entry is all that a named dataset costs."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.data import DataArguments
from hf_finetune.config.recipe import load_recipe, packaged_recipes
from hf_finetune.data.build import build_dataset
from hf_finetune.data.catalog import CATALOG, DEFAULT_RECIPE, DatasetEntry, find_entry
from hf_finetune.data.sources.open import open_source
from hf_finetune.errors import UserError
from hf_finetune.training.run import choose_recipe


@pytest.mark.parametrize("entry", CATALOG.values(), ids=CATALOG)
def test_entries_agree_with_themselves_and_their_recipes(entry: DatasetEntry) -> None:
    assert CATALOG[entry.name] is entry
    assert find_entry(entry.name) is entry and find_entry(entry.hub_id or entry.name) is entry
    assert entry.label_names is None or len(entry.label_names) == len(set(entry.label_names)) == entry.num_classes
    splits = {entry.split_of(role) for role in ("train", "validation", "test")} - {None}
    assert not entry.split_sizes or splits <= set(entry.split_sizes)
    assert entry.recipe in packaged_recipes()
    values = load_recipe(entry.recipe, argument_fields()).values
    if entry.recipe != DEFAULT_RECIPE:
        assert find_entry(values["dataset"]) is entry and values["num_labels"] == entry.num_classes
    for key in {"image_mean", "image_std"} & set(values):  # without them the model's image processor has its own
        assert len(values[key]) == 3 and all(0 < figure < 255 for figure in values[key])


def test_find_entry_by_name_or_hub_id() -> None:
    assert find_entry("cifar100") is find_entry("uoft-cs/cifar100") is CATALOG["cifar100"]
    assert find_entry("cifar100").label_column == "fine_label"
    assert find_entry("someone/cifar100") is None
    assert find_entry("") is None


def test_the_packaged_entries_have_recipes_of_their_own() -> None:
    assert {name: CATALOG[name].recipe for name in ("cifar10", "imagenet", "digits")} == {
        "cifar10": "resnet50_cifar10",
        "imagenet": "resnet50_imagenet",
        "digits": "digits",
    }


def test_a_named_dataset_costs_one_entry(tmp_path, monkeypatch) -> None:
    toy = DatasetEntry("toy", "someone/toy", num_classes=2, label_names=("dark", "light"))
    monkeypatch.setitem(CATALOG, "toy", toy)
    for name, value in (("dark", 0), ("light", 255)):
        (tmp_path / name).mkdir()
        for number in range(10):
            PIL.Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / name / f"{number}.png")

    data = build_dataset(DataArguments(dataset="toy", dataset_path=str(tmp_path)), seed=0)
    assert data.entry is toy and data.label_names == ["dark", "light"]
    assert (data.source, len(data.splits["train"])) == ("someone/toy, local copy", 18)
    for dataset in ("toy", "someone/toy"):
        assert choose_recipe(None, {"dataset": dataset}, "--{}".format).name == DEFAULT_RECIPE
    assert find_entry("someone/toy") is toy
    with pytest.raises(UserError, match=r"use --dataset with a name \(.*digits, toy\)"):
        open_source(DataArguments())
    with pytest.raises(UserError, match=r'Did you mean "toy"\?'):
        open_source(DataArguments(dataset="toyy"))
    with pytest.raises(UserError, match=r"^recipe: toy is a dataset; use --dataset toy"):
        choose_recipe("toy", {}, "--{}".format)
