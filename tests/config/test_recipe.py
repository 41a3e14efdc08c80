"""Recipes: inheritance, its errors, and the printed form."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import Recipe, load_recipe, override, read_value, to_yaml
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError

KNOWN_KEYS = {
    field.name for cls in (ModelArguments, DataArguments, FinetuneArguments) for field in dataclasses.fields(cls)
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is also the working directory, so that paths are given as a user types them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, **bases: str) -> Recipe:
    """Loads my.yaml of `text` in the working directory, beside a file NAME.yaml for each of `bases`."""
    for name, content in {**bases, "my": text}.items():
        Path(f"{name}.yaml").write_text(content, encoding="utf-8")
    return load_recipe("my.yaml", KNOWN_KEYS)


# Inheritance


def test_full_recipe_needs_no_base(folder: Path) -> None:
    recipe = load("learning_rate: 0.05\nlr_milestones: [3, 6]\n")
    values = {"learning_rate": 0.05, "lr_milestones": [3, 6]}
    assert recipe == Recipe("my", values, dict.fromkeys(values, "my.yaml"))


def test_later_base_wins_and_the_file_wins_over_its_bases(folder: Path) -> None:
    bases = {"a": "seed: 1\nlearning_rate: 0.1\nmomentum: 0.5\n", "b": "seed: 2\nlearning_rate: 0.2\n"}
    recipe = load("_base_: [a.yaml, b.yaml]\nseed: 3\n", **bases)
    assert recipe.values == {"seed": 3, "learning_rate": 0.2, "momentum": 0.5}
    assert recipe.origins == {"seed": "my.yaml", "learning_rate": "b.yaml", "momentum": "a.yaml"}


def test_bases_nest_relative_to_the_file_that_states_them(folder: Path) -> None:
    Path("shared/deep").mkdir(parents=True)
    Path("shared/near.yaml").write_text("_base_: deep/far.yaml\nmomentum: 0.8\n")
    Path("shared/deep/far.yaml").write_text("_base_: ../root.yaml\nseed: 9\nmomentum: 0.1\n")
    Path("shared/root.yaml").write_text("weight_decay: 0.5\nseed: 1\n")
    recipe = load("_base_: shared/near.yaml\n")
    assert recipe.values == {"weight_decay": 0.5, "seed": 9, "momentum": 0.8}
    near, far, root = "shared/near.yaml", "shared/deep/far.yaml", "shared/root.yaml"
    assert recipe.origins == {"weight_decay": root, "seed": far, "momentum": near}


@pytest.mark.parametrize("base", ["_base_/models/resnet50", "_base_/models/resnet50.yaml"])
def test_packaged_base_with_and_without_suffix(folder: Path, base: str) -> None:
    recipe = load(f"_base_: {base}\n")
    assert recipe.values == {"model_name_or_path": "microsoft/resnet-50"}
    assert recipe.origins == {"model_name_or_path": "recipes/_base_/models/resnet50.yaml"}


def test_file_beside_comes_before_the_packaged_recipe_of_that_name(folder: Path) -> None:
    assert load("_base_: resnet50_cifar10.yaml\n", resnet50_cifar10="seed: 7\n").values == {"seed": 7}


def test_file_may_extend_the_packaged_recipe_of_its_own_name(folder: Path) -> None:
    Path("resnet50_cifar10.yaml").write_text("_base_: resnet50_cifar10\nnum_train_epochs: 3\n")
    recipe = load_recipe("resnet50_cifar10.yaml", KNOWN_KEYS)
    assert (recipe.values["num_train_epochs"], recipe.values["learning_rate"]) == (3, 0.01)


def test_two_bases_may_share_a_base(folder: Path) -> None:
    shared = {"root": "seed: 1\n", "a": "_base_: root.yaml\nmomentum: 0.1\n", "b": "_base_: root.yaml\n"}
    assert load("_base_: [a.yaml, b.yaml]", **shared).values == {"seed": 1, "momentum": 0.1}


def test_mappings_merge_recursively_and_lists_are_replaced(folder: Path) -> None:
    recipe = load(
        "_base_: a.yaml\nmodel_config: {depth: 3, nested: {x: 5}, sizes: [9]}\nlr_milestones: [4]\n",
        a="model_config: {depth: 1, width: 2, nested: {x: 1, y: 2}, sizes: [1, 2]}\nlr_milestones: [1, 2]\n",
    )
    assert recipe.values == {
        "model_config": {"depth": 3, "width": 2, "nested": {"x": 5, "y": 2}, "sizes": [9]},
        "lr_milestones": [4],
    }
    assert recipe.origins == {"model_config": "a.yaml, my.yaml", "lr_milestones": "my.yaml"}


def test_null_takes_a_value_out_with_its_origin(folder: Path) -> None:
    text = "_base_: a.yaml\nseed: null\nmomentum:\nmax_steps: null\n"
    recipe = load(text, a="seed: 1\nmomentum: 0.5\noptim: sgd\n")
    assert recipe == Recipe(name="my", values={"optim": "sgd"}, origins={"optim": "a.yaml"})


def test_null_in_a_mapping_takes_out_that_key(folder: Path) -> None:
    text = "_base_: a.yaml\nmodel_config: {depth: null, nested: {x: null}, never_there: null}\n"
    base = "model_config: {depth: 1, width: 2, nested: {x: 1, y: 2}}\n"
    assert load(text, a=base).values == {"model_config": {"width": 2, "nested": {"y": 2}}}


def test_null_of_a_later_base_reaches_an_earlier_one(folder: Path) -> None:
    bases = {"a": "seed: 1\nmodel_config: {depth: 1}\n", "b": "seed: null\nmodel_config: null\n"}
    recipe = load("_base_: [a.yaml, b.yaml]\nmodel_config: {width: 2}\n", **bases)
    assert recipe.values == {"model_config": {"width": 2}}


def test_command_line_is_over_all_and_changes_no_recipe(folder: Path) -> None:
    recipe = load("learning_rate: 0.1\nseed: 1\nmodel_config: {depth: 1}\n")
    flags: dict[str, Any] = {"learning_rate": 0.2, "seed": None, "model_config": {"width": 2}, "lr_milestones": [5]}
    changed = override(recipe, flags)
    assert changed.values == {"learning_rate": 0.2, "model_config": {"depth": 1, "width": 2}, "lr_milestones": [5]}
    assert changed.origins == {
        "learning_rate": "--learning_rate",
        "model_config": "my.yaml, --model_config",
        "lr_milestones": "--lr_milestones",
    }
    assert recipe.values == {"learning_rate": 0.1, "seed": 1, "model_config": {"depth": 1}}
    changed.values["lr_milestones"].append(6)
    assert flags["lr_milestones"] == [5]


@pytest.mark.parametrize("origin", ["finetune({key}=)", "finetune({}=)".format])
def test_override_may_name_another_origin(origin: Any) -> None:
    assert override(Recipe("x", {}, {}), {"seed": 1}, origin).origins == {"seed": "finetune(seed=)"}


# What the YAML says


SCALARS = {"1e-2": 0.01, "1e-4": 0.0001, "1E3": 1000.0, "-2.5e+1": -25.0, ".5e1": 5.0, "1.0e-05": 1e-05, "0.1": 0.1}
SCALARS |= {"200": 200, "true": True, "False": False, "no": "no", "off": "off", "2024-01-01": "2024-01-01"}
SCALARS |= {"010": "010", "1:30": "1:30", "-0": 0, "0": 0, "0.5": 0.5, "1:30.5": "1:30.5", "0x10": 16}
SCALARS |= {'"1e-2"': "1e-2", "e-2": "e-2"}


@pytest.mark.parametrize(("written", "value"), SCALARS.items())
def test_scalars(folder: Path, written: str, value: object) -> None:
    for read in (load(f"run_name: {written}\n").values["run_name"], read_value(written, "--run_name")):
        assert (type(read), read) == (type(value), value)


def test_merge_key_of_yaml_is_not_a_duplicate(folder: Path) -> None:
    recipe = load("lr_scheduler_kwargs: &one {a: 1, b: 2}\nmodel_config: {<<: *one, b: 3}\n")
    assert recipe.values["model_config"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("written", "value"),
    [("[1, 2e0]", [1, 2.0]), ("{a: b}", {"a": "b"}), ("null", None), ("", ""), ("a b", "a b"), ("# a", "# a")],
)
def test_value_of_a_flag(written: str, value: object) -> None:
    assert read_value(written, "--flag") == value


def test_value_of_a_flag_that_is_no_yaml() -> None:
    with pytest.raises(UserError, match=r"^--flag: this is not valid YAML: expected ',' or '\]', but got"):
        read_value("[1, 2", "--flag")


# Errors

NEITHER = "is neither a file nor a packaged recipe."
LIST = "To list the packaged ones: hf-finetune recipes"
NOT_YAML = "this is not valid YAML:"
KEYS = "The keys are the flags of: hf-finetune train --help-all"
EMPTY = "my.yaml is empty; use lines such as learning_rate: 0.01, or a _base_."
MAPPING = "a recipe is a mapping, with lines such as learning_rate: 0.01"
ONE_NAME = "use one name or a list, such as [_base_/models/resnet50]."
CIRCLE = "my.yaml: its bases go in a circle"
# text of my.yaml (its base a.yaml is "learning_rat: 0.1"), the whole message
ERRORS = [
    ("_base_: a.yaml", 'a.yaml, line 1: unknown key "learning_rat". Did you mean "learning_rate"?'),
    ("seed: 1\nzzzz: 2", f'my.yaml, line 2: unknown key "zzzz". {KEYS}'),
    ("1: 2", f'my.yaml, line 1: unknown key "1". {KEYS}'),
    ("true: 2", f'my.yaml, line 1: unknown key "true". {KEYS}'),
    ("_base_: my.yaml", f"{CIRCLE} (my.yaml -> my.yaml); take one _base_ out."),
    ("_base_: b.yaml", f"{CIRCLE} (my.yaml -> b.yaml -> c.yaml -> my.yaml); take one _base_ out."),
    ("_base_: b.yam", f'my.yaml: base "b.yam" {NEITHER} Did you mean "b.yaml"? {LIST}'),
    ("_base_: zzzz", f'my.yaml: base "zzzz" {NEITHER} {LIST}'),
    (
        "_base_: [../_base_/models/resnet50.py]",
        f'my.yaml: base "../_base_/models/resnet50.py" {NEITHER} Did you mean "_base_/models/resnet50"? {LIST}',
    ),
    ("_base_: false", f"my.yaml: _base_ is False; {ONE_NAME}"),
    ("_base_: [c, 3]", f"my.yaml: _base_ is ['c', 3]; {ONE_NAME}"),
    ("_base_: {c: d}", f"my.yaml: _base_ is {{'c': 'd'}}; {ONE_NAME}"),
    ("seed: 1\noptim: sgd: 2", f"my.yaml, line 2: {NOT_YAML} mapping values are not allowed here."),
    ("seed: [1, 2", f"my.yaml: {NOT_YAML} expected ',' or ']', but got '<stream end>'."),
    ("seed: !!int x", f"my.yaml: {NOT_YAML} invalid literal for int() with base 10: 'x'."),
    ("seed: 1\noptim: a\nseed: 2", f'my.yaml, line 3: {NOT_YAML} the key "seed" stands twice, first in line 1.'),
    ("model_config:\n  x: 1\n  x: 1", f'my.yaml, line 3: {NOT_YAML} the key "x" stands twice, first in line 2.'),
    ("seed: 1\nmodel_config: &a {x: [*a]}", f"my.yaml, line 2: {NOT_YAML} *a stands within what it stands for."),
    ("", EMPTY),
    ("# a comment", EMPTY),
    ("null", EMPTY),
    ("- seed", f"my.yaml holds a list; {MAPPING}"),
    ("resnet50", f"my.yaml holds a str; {MAPPING}"),
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_mistake_is_told_in_one_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(text, a="learning_rat: 0.1", b="_base_: c.yaml", c="_base_: my.yaml")
    assert str(caught.value) == message


def test_aliases_that_multiply_each_other_are_refused_before_they_are_values(folder: Path) -> None:
    levels = [f"  a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 10)]
    with pytest.raises(
        UserError, match=r"^my\.yaml, line \d: .* more than 100,000 values, those of its aliases counted"
    ):
        load("\n".join(["model_config:", "  a0: &a0 [0, 1, 2, 3, 4, 5, 6, 7, 8]", *levels]))


def test_a_file_of_megabytes_is_not_parsed(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"^my\.yaml has 2,000,008 bytes; a recipe is a short YAML file, of 1,000,000 at"
    ):
        load("seed: 1\n" + "# xxxxx\n" * 250_000)


@pytest.mark.parametrize("content", [b"seed: \x00", b"a: 1\n---\nb: 2", b"seed: !!python/object/apply:os.getcwd []"])
def test_other_bytes_that_are_not_a_recipe(folder: Path, content: bytes) -> None:
    Path("my.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"^my\.yaml(, line \d)?: {NOT_YAML} .*$"):
        load_recipe("my.yaml", KNOWN_KEYS)


def test_file_that_is_not_text(folder: Path) -> None:
    Path("my.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(UserError, match=r"^my\.yaml is not a text in UTF-8; a recipe is a YAML file\.$"):
        load_recipe("my.yaml", KNOWN_KEYS)


def test_unknown_recipe_names_the_nearest_and_the_list(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("resnet50_cifar", KNOWN_KEYS)
    assert str(caught.value) == f'recipe "resnet50_cifar" {NEITHER} Did you mean "resnet50_cifar10"? {LIST}'


# The printed form


def test_explained_yaml_says_beside_each_value_where_it_was_set(folder: Path) -> None:
    text = "_base_: [_base_/models/lenet5, base.yaml]\nmodel_config: {hidden_size: 84}\nimage_mean: null\n"
    base = "image_mean: [1]\nimage_size: 32\ntrain_transforms:\n  - Resize: {size: 32}\n"
    recipe = override(load(text, base=base), {"learning_rate": 1e-2, "dataset_path": "x" * 60})
    model = "recipes/_base_/models/lenet5.yaml"
    assert to_yaml(recipe, explain=True).split("\n") == [
        f"model_type: lenet5                                # {model}",
        f"model_config: {{num_channels: 1, hidden_size: 84}}  # {model}, my.yaml",
        "image_size: 32                                    # base.yaml",
        "train_transforms:                                 # base.yaml",
        "- Resize: {size: 32}",
        "learning_rate: 0.01                               # --learning_rate",
        f"dataset_path: {'x' * 60}  # --dataset_path",
        "",
    ]


def test_transforms_are_printed_one_a_line() -> None:
    printed = to_yaml(load_recipe("resnet50_cifar10", KNOWN_KEYS))
    assert "train_transforms:\n- RandomCrop: {size: 32, padding: 4}\n- RandomHorizontalFlip: {p: 0.5}\n" in printed
    assert "#" not in printed


AWKWARD = {
    "run_name": "two lines\n# not a comment: 'x'\n",
    "output_dir": "a # b",
    "eval_strategy": "no",
    "dataset_revision": "1e10",
    "model_revision": "2024-01-01",
    "label_column": "",
    "image_column": "图像",
    "learning_rate": 1e-05,
    "lr_milestones": [float(epoch) for epoch in range(60)],
    "model_config": {"sizes": [1, 2], "empty": {}, "none": [], "deep": {"x": {"y": 1}}},
}


@pytest.mark.parametrize("explain", [False, True])
def test_awkward_values_read_back(folder: Path, explain: bool) -> None:
    recipe = Recipe("x", AWKWARD, dict.fromkeys(AWKWARD, "recipes/x.yaml"))
    printed = to_yaml(recipe, explain)
    assert load(printed).values == AWKWARD
    assert list(load(printed).values) == list(AWKWARD)
    assert yaml.safe_load(printed) == AWKWARD
    assert printed.count("# recipes/x.yaml\n") == (len(AWKWARD) if explain else 0)


def test_recipe_without_values_reads_back(folder: Path) -> None:
    assert load(to_yaml(load("_base_: a.yaml\nseed: null\n", a="seed: 1\n"))).values == {}


def test_import_is_light() -> None:
    check = "import sys, hf_finetune.config.recipe; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout == "set()\n"
