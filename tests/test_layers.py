"""Imports go one way: a package imports only from the layers below its own, and no two modules import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.sources import parsed

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = "hf_finetune"

# From the bottom to the top. A new module or package of the top level needs a line here.
LAYERS = (
    "shown_text",
    "errors",
    "timeouts",
    "cores",
    "pieces",
    "whole_files",
    "host_memory",
    "interrupts",
    "streams",
    "logs",
    "distributed",
    "losses",
    "tasks",
    "pages",
    "config",
    "mmclassification",
    "data",
    "models",
    "evaluation",
    "exporters",
    "hub",
    "reports",
    "training",
    "checks",
    "jobs",
    "serving",
    "api",
    "experiments",
    "predictions",
    "data_api",
    "previews",
    "cli",
    "__main__",
)
# What reads other libraries' configs needs nothing of ours but the words of an error and the recipe that it writes.
MMCLASSIFICATION_MAY_IMPORT = ("errors", "config.recipe", "mmclassification")


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of a source file below `root`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.stmt) -> bool:
    """Return whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(node: ast.AST, deferred: bool, type_checking: bool) -> Iterator[ast.stmt]:
    """Yield the statements below a node; those in functions and below TYPE_CHECKING only on request."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):  # no statement is inside of one
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not deferred:
            continue
        if isinstance(child, ast.stmt):
            if is_type_checking(child) and not type_checking:
                continue
            yield child
        yield from statements(child, deferred, type_checking)


@cache
def imports(tree: ast.Module, deferred: bool, type_checking: bool) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Return the imports among the statements of a source file."""
    found = statements(tree, deferred, type_checking)
    return tuple(statement for statement in found if isinstance(statement, ast.Import | ast.ImportFrom))


def imported(tree: ast.Module, modules: set[str], deferred: bool = True, type_checking: bool = True) -> set[str]:
    """Return the names out of `modules` that a source file imports."""
    names = set()
    for statement in imports(tree, deferred, type_checking):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        else:
            assert statement.level == 0, f"line {statement.lineno}: imports are absolute"
            base = statement.module or ""
            names |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in statement.names
            }
    return names & modules


def names_from(tree: ast.Module, module: str) -> set[str]:
    """Return the names that a source file imports from one module."""
    return {
        alias.name
        for statement in imports(tree, deferred=True, type_checking=True)
        if isinstance(statement, ast.ImportFrom) and statement.module == module
        for alias in statement.names
    }


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """The parsed modules of the package by their dotted names."""
    paths = sorted((REPOSITORY / PACKAGE).rglob("*.py"))
    return {module_name(path, REPOSITORY): parsed(path) for path in paths}


def test_each_top_level_module_has_a_layer():
    folder = REPOSITORY / PACKAGE
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert packages | modules <= set(LAYERS)


def test_a_module_imports_only_from_its_own_layer_and_those_below(trees):
    """An import in a function or for the types alone counts as well."""
    wrong = []
    for name, tree in trees.items():
        if name == PACKAGE:  # names the public modules, and imports one when it is first used
            continue
        layer = LAYERS.index(name.split(".")[1])
        lazy = names_from(tree, PACKAGE) - {"__version__"} - {module.removeprefix(f"{PACKAGE}.") for module in trees}
        wrong += [f"{name} imports {other} from {PACKAGE} instead of the module that defines it" for other in lazy]
        for other in imported(tree, set(trees)) - {PACKAGE}:
            if LAYERS.index(other.split(".")[1]) > layer:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_importing_the_package_imports_none_of_its_modules(trees):
    modules = imported(trees[PACKAGE], set(trees), deferred=False, type_checking=False)
    assert modules <= {f"{PACKAGE}.errors"}  # which imports nothing


def test_mmclassification_needs_errors_and_recipes_alone(trees):
    allowed = tuple(f"{PACKAGE}.{name}" for name in MMCLASSIFICATION_MAY_IMPORT)
    wrong = [
        f"{name} imports {other}"
        for name, tree in trees.items()
        if name.startswith(f"{PACKAGE}.mmclassification")
        for other in imported(tree, set(trees))
        if not other.startswith(allowed)
    ]
    assert not wrong


def test_no_modules_import_each_other(trees):
    """A circle is one even where an import in a function hides it."""
    graph = {name: imported(tree, set(trees), type_checking=False) for name, tree in trees.items() if name != PACKAGE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.slow
def test_no_test_imports_from_a_file_of_tests():
    """What tests share is in tests/helpers."""
    paths = sorted((REPOSITORY / "tests").rglob("*.py"))
    modules = {module_name(path, REPOSITORY) for path in paths}
    files_of_tests = {name for name in modules if name.split(".")[-1].startswith("test_")}
    wrong = {
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in paths
        for name in imported(parsed(path), modules) & files_of_tests
    }
    assert not wrong


@pytest.mark.parametrize("module", ["training.run", "jobs.evaluate", "jobs.predict", "jobs.compare", "hub.push"])
def test_matplotlib_and_scikit_learn_are_imported_when_they_are_due(trees, module):
    """Each costs half a second at the start of a command that may never draw a plot or fit a probe."""
    reached, due = set(), {f"{PACKAGE}.{module}"}
    while due:
        reached |= due
        due = set().union(*(imported(trees[name], set(trees), False, False) for name in due)) - reached
    assert f"{PACKAGE}.logs" in reached
    wrong = [
        name
        for name in reached
        for statement in imports(trees[name], deferred=False, type_checking=False)
        if ast.unparse(statement).split()[1].startswith(("matplotlib", "sklearn"))
    ]
    assert not wrong


def test_the_rules_see_every_kind_of_import():
    tree = ast.parse(
        "import a.b\nfrom a import c\nfrom a.d import thing\n"
        "if TYPE_CHECKING:\n    import a.e\n"
        "def f():\n    import a.f\n"
        "try:\n    import a.g\nexcept ImportError:\n    pass\n"
        "class C:\n    def m(self):\n        from a import h\n"
    )
    modules = {"a", *(f"a.{letter}" for letter in "bcdefgh")}
    assert imported(tree, modules) == modules - {"a"}
    assert imported(tree, modules, deferred=False, type_checking=False) == {"a.b", "a.c", "a.d", "a.g"}
