"""The names of Transformers' networks in a file: what is read there is what Transformers would find."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hf_finetune.cli.known_names import KnownStructure, Structure

NAMES = {
    "resnet": {
        frozenset[str](): {"configuration_resnet": {"ResNetConfig"}},
        frozenset({"torch", "vision"}): {"modeling_resnet": {"ResNetModel", "ResNetBackbone"}},
    },
    frozenset({"torch"}): {"cache": {"Cache"}},
}


class Stock:
    """Stands for the function of Transformers, and counts its calls."""

    def __init__(self) -> None:
        self.asked: list[Path] = []

    def __call__(self, path: str | Path) -> Structure:
        self.asked.append(Path(path))
        return NAMES


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "transformers" / "models"
    (folder / "resnet").mkdir(parents=True)
    (folder / "resnet" / "configuration_resnet.py").touch()
    (folder / "resnet" / "link.py").symlink_to("nowhere.py")
    return folder


def test_names_are_read_once_and_then_come_from_the_file(models, tmp_path):
    stock, cache = Stock(), tmp_path / "cache"
    first = KnownStructure(stock, models, cache)
    assert first(models) is first(str(models / "__init__.py")) and first(models) == NAMES
    assert KnownStructure(stock, models, cache)(models) == NAMES
    assert stock.asked == [models] and [file.suffix for file in cache.iterdir()] == [".json"]


def test_another_folder_is_not_kept(models, tmp_path):
    stock = Stock()
    names = KnownStructure(stock, models, tmp_path / "cache")
    for _ in range(2):
        names(models / "resnet")
    assert len(stock.asked) == 2 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("change", ["a new network", "an edited file", "[[", "3", "[[[], 3]]"])
def test_what_has_changed_or_is_damaged_is_read_again(models, tmp_path, change):
    stock, cache = Stock(), tmp_path / "cache"
    KnownStructure(stock, models, cache)(models)
    (kept,) = cache.iterdir()
    if change == "a new network":
        (models / "vit").mkdir()
        (models / "vit" / "configuration_vit.py").touch()
    elif change == "an edited file":
        os.utime(models / "resnet" / "configuration_resnet.py", ns=(0, 0))
    else:
        kept.write_text(change)
    assert KnownStructure(stock, models, cache)(models) == NAMES and len(stock.asked) == 2


def test_without_a_cache_that_can_be_written_names_are_read_each_time(models, tmp_path):
    stock = Stock()
    (tmp_path / "cache").touch()
    for _ in range(2):
        assert KnownStructure(stock, models, tmp_path / "cache")(models) == NAMES
    assert len(stock.asked) == 2
