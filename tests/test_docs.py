"""README and docs against the code: commands, recipes, tables, Python, links, and the Chinese tutorial against English.

The fenced blocks are read in order, as a reader follows them. A block `yaml recipe NAME` is written to NAME in an
empty folder, `yaml recipe append NAME` is added to it; each recipe is resolved and its values are checked. A block
`python config NAME` is written to NAME. `bash` goes through the real parsers, with the jobs themselves left out;
`text output` is what the command before it prints.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest
import yaml

import hf_finetune
from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.data import DataArguments
from hf_finetune.config.model import ModelArguments
from hf_finetune.config.recipe import load_recipe
from hf_finetune.config.training_keys import TrainingKeys
from hf_finetune.data.catalog import CATALOG, DatasetEntry
from hf_finetune.data.transforms.batch import BATCH_TRANSFORMS
from hf_finetune.evaluation.metrics import Metric
from tests.helpers.processes import REPOSITORY
from tests.helpers.reader import Block, Reader, blocks_of

DOCUMENTS = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
TUTORIAL, CHINESE_TUTORIAL = REPOSITORY / "docs/tutorial.md", REPOSITORY / "docs/zh_CN/tutorial.md"
# Pages that no one follows from command to command, so they need not train.
REFERENCE = {"CHANGELOG.md", "CONTRIBUTING.md", "api.md", "architecture.md"}
GROUPS = {"Model": ModelArguments, "Data": DataArguments, "Training": TrainingKeys}


def tables_of(document: Path, heading: str) -> list[list[str]]:
    """Returns the cells of the first table below a heading, without its two first lines."""
    below = document.read_text(encoding="utf-8").split(f"{heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def slug(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Reader:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return Reader(tmp_path, monkeypatch, capsys)


def ids(documents: list[Path]) -> list[str]:
    return [str(document.relative_to(REPOSITORY)) for document in documents]


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids(DOCUMENTS))
def test_every_command_and_recipe_of_a_document_is_one(document, reader):
    for block in blocks_of(document):
        reader.read(block)
    assert "train" in reader.jobs or document.name in REFERENCE


def test_the_reader_finds_what_is_wrong(reader):
    for text in (
        "hf-finetune train --dataset cifar10 --learning_rat 0.1",
        "hf-finetune train --recipe nothing_of_the_kind",
        "hf-finetune train --dataset digits --global_batch_size 10 --per_device_train_batch_size 3",
        "hf-finetune evaluate runs/a --learning_rate 0.1",
        "hf-finetune trian --dataset digits",
        "make dmeo",
    ):
        with pytest.raises(AssertionError):
            reader.read(Block("bash", text, "here"))


def test_readme_begins_with_the_demonstration_and_the_tests():
    first = next(block for block in blocks_of(REPOSITORY / "README.md") if block.info == "bash")
    assert first.commands == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("document", [TUTORIAL, CHINESE_TUTORIAL], ids=ids([TUTORIAL, CHINESE_TUTORIAL]))
def test_the_tutorials_recipes_are_the_packaged_ones(document, reader):
    stages = []
    for block in blocks_of(document):
        reader.read(block)
        if block.info.endswith("my_cifar10.yaml"):
            stages.append(load_recipe("my_cifar10.yaml", argument_fields()).values)
    # The bases, four steps that add to them, and the whole file.
    assert len(stages) == 6 and stages[0] != stages[-1]
    assert stages[-2] == stages[-1] == load_recipe("resnet50_cifar10", argument_fields()).values
    assert "_base_" not in Path("my_lenet5.yaml").read_text()
    packaged = load_recipe("lenet5_mnist", argument_fields()).values
    assert load_recipe("my_lenet5.yaml", argument_fields()).values == packaged


def test_the_chinese_tutorial_says_the_same():
    english, chinese = blocks_of(TUTORIAL), blocks_of(CHINESE_TUTORIAL)
    assert [block.info for block in chinese] == [block.info for block in english]
    for ours, theirs in zip(english, chinese, strict=True):
        if ours.info == "bash":
            assert theirs.commands == ours.commands, theirs.place
        elif ours.info.startswith("yaml"):
            assert yaml.safe_load(theirs.text) == yaml.safe_load(ours.text), theirs.place
        elif ours.info == "python":
            assert ast.dump(ast.parse(theirs.text)) == ast.dump(ast.parse(ours.text)), theirs.place
        else:
            assert theirs.text == ours.text, theirs.place
    levels = [re.findall(r"^#+(?= )", path.read_text(encoding="utf-8"), re.M) for path in (TUTORIAL, CHINESE_TUTORIAL)]
    assert levels[0] == levels[1]


def type_name(hint: Any) -> str:
    """Returns how the tables call a field's type: what may be absent has no word for it."""
    alternatives = [part for part in typing.get_args(hint) if part is not type(None)]
    if type(None) in typing.get_args(hint) and len(alternatives) == 1:
        (hint,) = alternatives
    elif alternatives and typing.get_origin(hint) not in (list, dict):
        return " or ".join(map(type_name, alternatives))
    if typing.get_origin(hint) is list:
        (item,) = typing.get_args(hint)
        return "list" if item is Any else f"list of {item.__name__}"
    return "mapping" if typing.get_origin(hint) is dict else hint.__name__


@pytest.mark.parametrize("heading", GROUPS)
def test_the_key_tables_name_every_own_field_with_its_type_and_default(heading):
    group = GROUPS[heading]
    hints = typing.get_type_hints(group)
    ours = [part for part in group.__mro__ if part.__module__.startswith("hf_finetune.")]
    own = {name for part in ours for name in inspect.get_annotations(part) if name in argument_fields()}
    rows = tables_of(REPOSITORY / "docs/recipes.md", f"### {heading}")
    assert sorted(row[0] for row in rows) == sorted(f"`{name}`" for name in own)
    for key, type_, default, meaning in rows:
        item = argument_fields()[key.strip("`")]
        value = item.default if item.default is not MISSING else item.default_factory()
        assert type_ == type_name(hints[item.name]), key
        # A word as it stands, since YAML 1.1 would read some as something else.
        shown = default if isinstance(value, str) else None if default == "none" else yaml.safe_load(default)
        assert shown == value and isinstance(shown, bool) == isinstance(value, bool), f"{key}: {default}"
        assert meaning


def test_the_transforms_that_run_on_batches_are_those_that_the_table_names():
    rows = tables_of(REPOSITORY / "docs/recipes.md", "## Transforms")
    named = re.findall(r"`(\w+)`", next(row for row in rows if row[0].startswith("a whole batch"))[2])
    assert named == sorted(BATCH_TRANSFORMS)


def site_module(name: str) -> Any:
    """Returns a module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", REPOSITORY / f"docs/site/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_registries():
    tables = site_module("tables")
    pages = [page for page in DOCUMENTS if "<!-- table:" in page.read_text(encoding="utf-8")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert tables.with_tables(text) == text, f"{page.name} is out of date; run python docs/site/tables.py"
    named = {name for page in pages for name in re.findall(r"<!-- table: (\w+)", page.read_text(encoding="utf-8"))}
    assert named == set(tables.TABLES)


def test_the_table_of_named_datasets_is_the_catalog():
    rows = tables_of(REPOSITORY / "docs/datasets.md", "## Named datasets")
    expected = [
        [
            f"`{entry.name}`",
            entry.hub_id or "built in",
            f"{entry.num_classes:,}",
            ", ".join(f"{split} {size:,}" for split, size in entry.split_sizes.items()),
            f"`{entry.recipe}`",
        ]
        for entry in CATALOG.values()
    ]
    assert rows == expected
    sources = next(row for row in tables_of(REPOSITORY / "README.md", "## Where the images come from"))
    examples = re.match(r"A named dataset, such as (\w+), (\w+) or (\w+) ", sources[0])
    assert set(examples.groups()) <= set(CATALOG)


def test_a_dataset_that_is_added_stands_in_the_table(monkeypatch):
    tables = site_module("tables")
    toy = DatasetEntry(name="toys", hub_id="me/toys", num_classes=3, split_sizes={"train": 1_200}, recipe="finetune")
    monkeypatch.setitem(tables.CATALOG, "toys", toy)
    assert "| `toys` | me/toys | 3 | train 1,200 | `finetune` |" in tables.datasets_table()


def test_a_metric_that_is_added_stands_in_the_table(monkeypatch):
    def fooled(predictions):
        """Return the share of images that fooled the model."""

    tables = site_module("tables")
    toy = Metric(fooled, "fooled", "fooled", "fooled", greater_is_better=False)
    monkeypatch.setattr(tables, "METRICS", {**tables.METRICS, "fooled": toy})
    assert "| `fooled` | the share of images that fooled the model | lower |" in tables.metrics_table()


def test_the_tree_of_the_architecture_is_what_there_is():
    text = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    tree = next(block.text for block in blocks_of(REPOSITORY / "docs/architecture.md") if block.info == "text")
    folders = {0: REPOSITORY}
    for indent, name in re.findall(r"^( *)(\S+)", tree, re.M):
        path = folders[len(indent) // 2] / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), path
        folders[len(indent) // 2 + 1] = path
    assert len(text.splitlines()) <= 120


def public_functions() -> dict[str, Callable[..., Any]]:
    found = {name: getattr(hf_finetune, name) for name in hf_finetune.__all__}
    return {name: item for name, item in found.items() if inspect.isfunction(item)}


def test_the_python_of_the_documents_calls_what_there_is():
    callers, called = public_functions(), []
    for block in (block for document in DOCUMENTS for block in blocks_of(document) if block.info == "python"):
        tree = ast.parse(block.text)
        for statement in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
            if statement.module == "hf_finetune":
                assert {alias.name for alias in statement.names} <= set(hf_finetune.__all__), block.place
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", "")
            if name in callers:
                parameters = {*inspect.signature(callers[name]).parameters, *argument_fields()}
                assert {keyword.arg for keyword in call.keywords} <= parameters, block.place
                called.append(name)
            elif name == "DatasetEntry":
                (entry,) = eval(compile(block.text, block.place, "eval"), {"DatasetEntry": DatasetEntry})
                assert entry.name not in CATALOG and entry.validation_split in entry.split_sizes
                called.append(name)
    assert {"finetune", "DatasetEntry"} <= set(called)


def test_the_api_reference_names_every_public_name():
    named = re.findall(r"^::: hf_finetune\.(\w+)$", (REPOSITORY / "docs/api.md").read_text(encoding="utf-8"), re.M)
    first_version = {"evaluate_model", "export_model"}  # other names of functions that are there
    assert sorted(named) == sorted({name for name in hf_finetune.__all__ if not name.startswith("_")} - first_version)


def test_the_navigation_of_the_site_names_every_page():
    config = (REPOSITORY / "docs/site/mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ +- .*: (\S+\.md)$", config, re.M))
    pages = {str(page.relative_to(REPOSITORY / "docs")) for page in DOCUMENTS if page.parent != REPOSITORY}
    shown = {page for page in site_module("hooks").SHOWN.values() if page.endswith(".md")}
    assert listed == pages | shown


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids(DOCUMENTS))
def test_every_relative_link_leads_somewhere(document):
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_file() and target.is_relative_to(REPOSITORY), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), link
