"""Configs read from their syntax tree: what MMEngine's own loader gives, without anything being executed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hf_finetune.errors import UserError
from hf_finetune.mmclassification.expressions import Evaluator
from hf_finetune.mmclassification.syntax import read_config
from hf_finetune.mmclassification.unreadable import Unreadable


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`write("a.py", "x = 1")` makes a file in the working directory, with its folders."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, text: str) -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
        return name

    return run


EXPRESSIONS = {
    "5e-4 * 1024 / 512": 0.001,
    "-(2 ** 3) + 7 // 2 - 1 % 2": -6,
    "dict(a=1, **{'b': 2})": {"a": 1, "b": 2},
    "{**dict(a=1), 'a': 3}": {"a": 3},
    "[1, *(2, 3)][::-1]": [3, 2, 1],
    "dict(a=[dict(b=4)])['a'][0]['b']": 4,
    "f'{3:02d}-{\"x\"!r}'": "03-'x'",
    "'stage{}.{name}'.format(1, name='w')": "stage1.w",
    "[round(x) for x in (1.4, 2.6) if x > 0]": [1, 3],
    "{k: 2 * k for k in range(3)}": {0: 0, 1: 2, 2: 4},
    "1 if 2 < 3 < 4 and not False else 0": 1,
    "(1,) + (2,) * 2": (1, 2, 2),
    "max(len('abc'), int('4'))": 4,
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_has_pythons_value(write, expression: str) -> None:
    value = read_config(write("a.py", f"x = {expression}")).values["x"]
    assert value == EXPRESSIONS[expression] == eval(expression)
    assert type(value) is type(EXPRESSIONS[expression])


CODE = [
    "__import__('os').system('touch ran')",
    "os.system('touch ran')",
    "open('ran', 'w')",
    "(lambda: 1)()",
    "().__class__.__bases__[0].__subclasses__()",
    "'{0.__class__}'.join",
    "exec('x')",
    "[].append(1)",
    "10 ** 10 ** 10",
    "'x' * 10 ** 9",
    "[0] * 10 ** 9",
    "[x for x in range(10 ** 9)]",
    "f'{1:>1000000}'",
    "'{:{}}'.format(1, 10 ** 9)",
    "unknown_name",
    "1 / 0",
    "[1][5]",
    "await_me if True else 1",
]


@pytest.mark.parametrize("code", CODE)
def test_code_and_nonsense_become_a_value_that_cannot_be_read(write, code: str) -> None:
    value = read_config(write("a.py", f"import os\nx = {code}\ny = 2\n")).values
    assert isinstance(value["x"], Unreadable) and value["y"] == 2
    assert value["x"].file == "a.py" and value["x"].line == 2
    assert not Path("ran").exists()


def test_one_unreadable_value_spoils_only_itself(write) -> None:
    values = read_config(write("a.py", "import os\nx = dict(a=1, b=os.getcwd(), c=[os.sep, 2])\n")).values
    assert values["x"]["a"] == 1 and values["x"]["c"][1] == 2
    assert isinstance(values["x"]["b"], Unreadable) and isinstance(values["x"]["c"][0], Unreadable)


def test_statements_that_are_code_are_noted_and_not_run(write) -> None:
    text = (
        "import os\nos.system('touch ran')\nif True:\n    x = 1\nfor i in range(3):\n    pass\ndef f():\n    return 1\n"
    )
    config = read_config(write("a.py", text))
    assert config.values == {} and not Path("ran").exists()
    assert [note.split(":")[0] for note in config.notes] == [f"a.py, line {line}" for line in (2, 3, 5, 7)]
    assert all("is code, which is not run" in note for note in config.notes)


def test_values_that_double_at_each_line_end_before_the_memory_does(write) -> None:
    text = "a = [1]\n" + "a = [a, a]\n" * 60
    assert "has more than 100,000 items" in str(read_config(write("a.py", text)).values["a"])
    with pytest.raises(UserError, match="nests its expressions too deeply|cannot be parsed as Python"):
        read_config(write("a.py", "x = " + "+".join("1" * 5000)))


def test_lists_and_dicts_change_as_in_python(write) -> None:
    text = (
        "import copy\nbase = [dict(a=1), dict(level=9)]\nmine = copy.deepcopy(base)\nmine[1]['level'] *= 2\n"
        "mine.append(3)\nx, y = 1, 2\nx += 4\nbase[0].update(b=5)\n"
    )
    values = read_config(write("a.py", text)).values
    assert values == {"base": [dict(a=1, b=5), dict(level=9)], "mine": [dict(a=1), dict(level=18), 3], "x": 5, "y": 2}


# Bases


def test_bases_merge_and_delete_replaces(write) -> None:
    write(
        "base/model.py", "model = dict(head=dict(type='A', loss=dict(type='L', w=1)), depth=18, freeze=None)\nn = 5\n"
    )
    write("base/run.py", "run = dict(epochs=3)\n")
    text = (
        "_base_ = ['base/model.py', './base/run.py']\n"
        "model = dict(depth=50, head=dict(loss=dict(_delete_=True, type='M')))\nepochs = _base_.run.epochs + _base_.n\n"
    )
    values = read_config(write("mine.py", text)).values
    assert values["model"] == dict(head=dict(type="A", loss=dict(type="M")), depth=50, freeze=None)
    assert values["epochs"] == 8 and values["run"] == dict(epochs=3) and values["n"] == 5
    assert "_base_" not in values


def test_the_old_way_of_naming_a_base_value(write) -> None:
    write("policies.py", "policies = [dict(type='Rotate')]\n")
    text = "_base_ = 'policies.py'\npipeline = [dict(type='RandAugment', policies={{_base_.policies}})]\n"
    assert read_config(write("a.py", text)).values["pipeline"][0]["policies"] == [dict(type="Rotate")]


def test_a_base_value_may_be_set_in_place(write) -> None:
    write("b.py", "loader = dict(pipeline=[dict(scale=224)], batch=2)\n")
    text = "_base_ = 'b.py'\n_base_.loader.batch = 4\n_base_['loader']['pipeline'][0]['scale'] = 160\n"
    assert read_config(write("a.py", text)).values["loader"] == dict(pipeline=[dict(scale=160)], batch=4)


def test_words_of_the_file_and_of_the_environment(write) -> None:
    text = "x = '{{ fileBasenameNoExtension }}/{{ fileDirname }}'\ny = '{{$HOME:here}}'\n"
    config = read_config(write("sub/my_config.py", text))
    assert config.values == {"x": "my_config/sub", "y": "here"}
    assert "the environment is not read" in config.notes[0]


def test_the_newer_way_of_pure_python(write) -> None:
    write(
        "_base_/models/net.py",
        "from mmpretrain.models import ResNet\nmodel = dict(backbone=dict(type=ResNet, depth=18))\n",
    )
    text = (
        "from mmengine.config import read_base\nfrom torch.optim import SGD\n\nwith read_base():\n"
        "    from ._base_.models.net import *\n\nmodel.merge(dict(backbone=dict(depth=50), num_classes=3))\n"
        "optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.1))\n"
    )
    values = read_config(write("mine.py", text)).values
    assert values["model"] == dict(backbone=dict(type="ResNet", depth=50), num_classes=3)
    assert values["optim_wrapper"]["optimizer"]["type"] == "SGD"
    assert set(values) == {"model", "optim_wrapper"}


MISTAKES = [
    ("_base_ = 'nowhere.py'\n", "there is no config nowhere.py, which a.py names as a base."),
    ("_base_ = 'a.py'\n", "a.py: its bases contain each other (a.py -> a.py); remove one _base_."),
    ("_base_ = 'b.py'\n", "a.py -> b.py -> a.py); remove one _base_."),
    ("_base_ = ['c.py', 'd.py']\n", "a.py: two of its bases set x; keep it in one, as MMEngine asks."),
    ("_base_ = [1]\n", "a.py: its _base_ is not a path or a list of paths; use texts."),
    ("_base_ = 'mmdet::x.py'\n", 'a.py: its base "mmdet::x.py" is a file of another package;'),
    ("_base_ = 'c.py'\nx = dict(y=1)\n", "a.py: x is a dict here and a int in its base; add _delete_=True"),
    ("x = 1\ny = dict(\n", "a.py, line 2: this is not valid Python: '(' was never closed."),
    ("x = 1\x00", "a.py"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_is_told_in_one_line(write, text: str, message: str) -> None:
    write("b.py", "_base_ = 'a.py'\n")
    write("c.py", "x = 1\n")
    write("d.py", "x = 2\n")
    with pytest.raises(UserError) as caught:
        read_config(write("a.py", text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_config_file(write, tmp_path: Path) -> None:
    write("folder/net.py", "")
    write("net.yaml", "")
    Path("latin.py").write_bytes("x = 'é'".encode("latin-1"))
    for name, message in {
        "folder": "folder is a folder; use one config, such as folder/NAME.py",
        "folder/nett.py": 'there is no config folder/nett.py. Did you mean "net.py"? Use the path of a .py file.',
        "net.yaml": "net.yaml is not a .py file;",
        "latin.py": "latin.py is not a text in UTF-8;",
    }.items():
        with pytest.raises(UserError) as caught:
            read_config(name)
        assert message in str(caught.value)


def test_reading_is_light() -> None:
    check = (
        "import sys, hf_finetune.cli.main, hf_finetune.jobs.import_config;"
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout == "set()\n"


def test_nothing_of_python_that_runs_code_is_called() -> None:
    """The evaluator's source, read as a config would be, holds no eval, exec, compile or import by name."""
    import inspect

    source = inspect.getsource(sys.modules[Evaluator.__module__])
    assert not any(word in source for word in ("eval(", "exec(", 'compile("', "__import__", "importlib"))


def test_values_are_those_of_mmengine(write) -> None:
    Config = pytest.importorskip("mmengine.config").Config
    write("b.py", "norm = dict(mean=[1., 2.], to_rgb=True)\nmodel = dict(a=dict(b=1, c=[1, 2]), d=2)\n")
    text = (
        "_base_ = ['./b.py']\nbgr = [1, 2, 3][::-1]\nmodel = dict(a=dict(_delete_=True, e=f'{2}'))\n"
        "pipe = [dict(type='N', **_base_.norm), dict(v=[round(x) for x in bgr])]\nlr = 5e-4 * 128 * 8 / 512\n"
    )
    name = write("a.py", text)
    assert read_config(name).values == Config.fromfile(name)._cfg_dict.to_dict()
