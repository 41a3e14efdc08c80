"""The packaged recipes, against the figures of the tutorial and of the data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.recipe import load_recipe, packaged_recipes, to_yaml

KNOWN_KEYS = argument_fields().keys()

SGD = dict(optim="sgd", learning_rate=0.01, momentum=0.9, weight_decay=1e-4, max_grad_norm=0, global_batch_size=128)
SCHEDULE = dict(**SGD, lr_scheduler_type="multistep", lr_milestones=[15], lr_gamma=0.1)
SAVING = dict(eval_strategy="epoch", save_strategy="epoch", save_total_limit=2, load_best_model_at_end=True)
RUNTIME = dict(logging_steps=100, **SAVING, metric_for_best_model="accuracy", seed=42)


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipe_loads_and_reads_back(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name, KNOWN_KEYS)
    assert recipe.name == name
    assert recipe.values.keys() <= KNOWN_KEYS
    assert all(origin.startswith("recipes/") for origin in recipe.origins.values())
    for explain in (False, True):
        (tmp_path / "my.yaml").write_text(to_yaml(recipe, explain), encoding="utf-8")
        assert load_recipe(tmp_path / "my.yaml", KNOWN_KEYS).values == recipe.values


def test_packaged_recipes_have_one_line_each_with_bases_last() -> None:
    recipes = packaged_recipes()
    bases = [name.startswith("_base_/") for name in recipes]
    assert bases == sorted(bases)
    assert {"resnet50_cifar10", "lenet5_mnist", "finetune", "_base_/schedules/imagenet_scratch"} <= recipes.keys()
    assert recipes["lenet5_mnist"].startswith("LeNet-5 on MNIST")
    assert all(line and "#" not in line and len(line) < 120 for line in recipes.values())


def test_a_packaged_path_is_the_packaged_recipe() -> None:
    path = Path(sys.modules[load_recipe.__module__].__file__).parents[1] / "recipes" / "lenet5_mnist.yaml"
    assert load_recipe(path, KNOWN_KEYS) == load_recipe("lenet5_mnist", KNOWN_KEYS)


def test_resnet50_cifar10_is_the_tutorial() -> None:
    recipe = load_recipe("resnet50_cifar10", KNOWN_KEYS)
    model = dict(model_name_or_path="microsoft/resnet-50", pretrained=True, num_labels=10)
    data = dict(dataset="cifar10", image_size=224, crop_pct=1.0, resample="bilinear")
    data["image_mean"] = [125.307, 122.961, 113.8575]
    data["image_std"] = [51.5865, 50.847, 51.255]
    crop = {"RandomCrop": {"size": 32, "padding": 4}}
    data["train_transforms"] = [crop, {"RandomHorizontalFlip": {"p": 0.5}}, {"Resize": {"size": 224}}]
    expected = {**model, **data, **SCHEDULE, "num_train_epochs": 200, **RUNTIME}
    assert recipe.values == {**expected, "precision": "float32"}  # in which the tutorial trains
    assert recipe.origins["dataset"] == "recipes/_base_/datasets/cifar10.yaml"
    assert recipe.origins["learning_rate"] == "recipes/resnet50_cifar10.yaml"
    assert recipe.origins["save_total_limit"] == "recipes/_base_/default_runtime.yaml"


def test_lenet5_mnist_inherits_nothing() -> None:
    recipe = load_recipe("lenet5_mnist", KNOWN_KEYS)
    model = dict(model_type="lenet5", model_config={"num_channels": 1}, num_labels=10)
    data = dict(dataset="mnist", image_size=32, crop_pct=1.0, resample="bilinear")
    data |= dict(image_mean=[33.46] * 3, image_std=[78.87] * 3, train_transforms=[{"Resize": {"size": 32}}])
    assert recipe.values == {**model, **data, **SCHEDULE, "num_train_epochs": 5, **RUNTIME}
    assert set(recipe.origins.values()) == {"recipes/lenet5_mnist.yaml"}


@pytest.mark.parametrize(
    ("name", "learning_rate", "milestones", "epochs", "batch"),
    [
        ("finetune_sgd", 0.01, [15], 200, 128),
        ("cifar10_scratch", 0.1, [100, 150], 200, 128),
        ("imagenet_scratch", 0.1, [30, 60, 90], 100, 256),
    ],
)
def test_schedules(name: str, learning_rate: float, milestones: list[int], epochs: int, batch: int) -> None:
    stated = dict(learning_rate=learning_rate, lr_milestones=milestones, num_train_epochs=epochs)
    values = load_recipe(f"_base_/schedules/{name}", KNOWN_KEYS).values
    assert values == {**SCHEDULE, **stated, "global_batch_size": batch}


@pytest.mark.parametrize(
    ("name", "num_labels", "image_size", "crop_pct", "mean", "std"),
    [
        ("cifar10", 10, 224, 1.0, [125.307, 122.961, 113.8575], [51.5865, 50.847, 51.255]),
        ("cifar100", 100, 224, 1.0, [129.304, 124.07, 112.434], [68.17, 65.392, 70.418]),
        ("mnist", 10, 32, 1.0, [33.46] * 3, [78.87] * 3),
        ("fashion_mnist", 10, 224, 1.0, [72.94] * 3, [90.02] * 3),
        ("imagenet", 1000, 224, 0.875, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    ],
)
def test_dataset_bases(
    name: str, num_labels: int, image_size: int, crop_pct: float, mean: list[float], std: list[float]
) -> None:
    values = load_recipe(f"_base_/datasets/{name}", KNOWN_KEYS).values
    transforms = [next(iter(transform)) for transform in values.pop("train_transforms")]
    stated = dict(num_labels=num_labels, image_size=image_size, crop_pct=crop_pct, image_mean=mean, image_std=std)
    assert values == {"dataset": name, "resample": "bilinear", **stated}
    # A mirrored digit is another sign.
    assert ("RandomHorizontalFlip" in transforms) is (name != "mnist")


def test_digits_figures_are_those_of_the_data() -> None:
    pixels = pytest.importorskip("sklearn.datasets").load_digits().images * 255 / 16
    values = load_recipe("_base_/datasets/digits", KNOWN_KEYS).values
    assert values["image_mean"] == pytest.approx([pixels.mean()] * 3, abs=0.005)
    assert values["image_std"] == pytest.approx([pixels.std()] * 3, abs=0.005)
    assert "RandomHorizontalFlip" not in str(values["train_transforms"])


def test_imagenet_starts_from_random_weights() -> None:
    assert load_recipe("resnet50_imagenet", KNOWN_KEYS).values["pretrained"] is False


def test_finetune_leaves_size_and_normalization_to_the_checkpoint() -> None:
    values = load_recipe("finetune", KNOWN_KEYS).values
    follow = {"dataset", "num_labels", "image_size", "crop_pct", "image_mean", "image_std", "train_transforms"}
    assert not values.keys() & follow
    assert (values["num_train_epochs"], values["head_init"], values["freeze"]) == ("auto", "auto", ["batch_norm"])
