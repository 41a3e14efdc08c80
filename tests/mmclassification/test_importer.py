"""From a config to a recipe: the tutorial's round trip, the written text, the command, and its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_finetune.cli.main import main
from hf_finetune.config.recipe import load_recipe
from hf_finetune.errors import UserError
from hf_finetune.jobs.import_config import import_as_recipe
from hf_finetune.mmclassification.importer import import_config
from hf_finetune.mmclassification.recipe_text import choose_bases, packaged_bases
from tests.helpers.mistakes import refuse
from tests.helpers.mm_configs import (
    KNOWN_KEYS,
    RESNET,
    as_recipe,
    imported,
    new_config,
    old_config,
    old_data,
    remarks,
    write_config,
)

CIFAR_NORMALIZATION = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255])


@pytest.fixture
def tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MMClassification's tutorial of fine-tuning ResNet-50 on CIFAR-10: its last config, with the bases it names."""
    monkeypatch.chdir(tmp_path)
    for folder in ("_base_/models", "_base_/datasets", "cifar"):
        Path(folder).mkdir(parents=True)
    head = {**RESNET["head"], "num_classes": 1000, "topk": (1, 5)}
    write_config(Path("_base_/models/resnet50.py"), {"model": {**RESNET, "head": head}})
    small = [dict(type="RandomCrop", size=32, padding=4), dict(type="Normalize", **CIFAR_NORMALIZATION, to_rgb=False)]
    data = old_data("CIFAR10", train=small, test=small[1:], data_prefix="data/cifar10")
    write_config(
        Path("_base_/datasets/cifar10.py"), {"dataset_type": "CIFAR10", "data": {**data, "samples_per_gpu": 16}}
    )
    runtime = dict(
        checkpoint_config=dict(interval=1),
        log_config=dict(interval=100, hooks=[dict(type="TextLoggerHook")]),
        dist_params=dict(backend="nccl"),
        log_level="INFO",
        load_from=None,
        resume_from=None,
        workflow=[("train", 1)],
    )
    write_config(Path("_base_/default_runtime.py"), runtime)
    Path("cifar/resnet50_finetune_cifar.py").write_text(
        f"""_base_ = ['../_base_/models/resnet50.py', '../_base_/datasets/cifar10.py', '../_base_/default_runtime.py']
model = dict(pretrained=None, head=dict(num_classes=10, loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
norm = dict(**{CIFAR_NORMALIZATION!r}, to_rgb=True)
pack = dict(type='Collect', keys=['img'])
train = [
    dict(type='RandomCrop', size=32, padding=4),
    dict(type='RandomFlip', flip_prob=0.5, direction='horizontal'),
    dict(type='Resize', size=224),
    dict(type='Normalize', **norm),
    pack,
]
test = [dict(type='Resize', size=224), dict(type='Normalize', **norm), pack]
data = dict(train=dict(pipeline=train), val=dict(pipeline=test), test=dict(pipeline=test))
optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy='step', step=[15])
runner = dict(type='EpochBasedRunner', max_epochs=200)
log_config = dict(interval=100)
load_from = 'https://example.com/models/tbd.pth'
"""
    )
    return "cifar/resnet50_finetune_cifar.py"


def test_the_tutorials_config_is_the_packaged_recipe(tutorial: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-config", tutorial, "--output", "mine.yaml"]) == 0
    recipe = load_recipe("mine.yaml", KNOWN_KEYS - {"load_from", "freeze"})
    assert recipe.values == load_recipe("resnet50_cifar10", KNOWN_KEYS).values
    text = Path("mine.yaml").read_text()
    assert "_base_: [_base_/models/resnet50, _base_/datasets/cifar10, _base_/schedules/finetune_sgd," in text
    assert capsys.readouterr().out == "The recipe is in mine.yaml, with 4 remarks at its end.\n"
    for line in (
        "load_from: https://example.com/models/tbd.pth is a placeholder",
        "data.samples_per_gpu: 16 on an unknown number of GPUs; 8 are taken",
        "to_rgb: True turns CIFAR's images, which are RGB, into BGR",
        "the test split chooses the checkpoint; here a tenth of train is held out",
    ):
        assert line in text


def test_a_plain_config_of_both_libraries_is_imported_whole_and_alike(tmp_path: Path) -> None:
    old, new = imported(tmp_path, old_config()), imported(tmp_path, new_config())
    assert not old.remarks and not new.remarks
    assert old.settings == new.settings
    values = as_recipe(old, tmp_path).values
    scratch = load_recipe("_base_/schedules/imagenet_scratch", KNOWN_KEYS).values
    assert {key: values[key] for key in scratch} == scratch
    assert values["dataset"] == "imagenet" and values["model_type"] == "resnet" and values["num_labels"] == 10


def test_only_bases_that_say_nothing_else_are_taken(tmp_path: Path) -> None:
    bases = packaged_bases()
    draft = imported(tmp_path, old_config())
    assert choose_bases(draft.settings, bases) == ["_base_/schedules/imagenet_scratch", "_base_/default_runtime"]
    draft.settings["learning_rate"] = 0.2
    assert choose_bases(draft.settings, bases) == ["_base_/default_runtime"]
    values = as_recipe(draft, tmp_path).values
    assert values == {**bases["_base_/default_runtime"], **draft.settings}


def test_a_setting_that_nothing_reads_becomes_a_remark(tmp_path: Path) -> None:
    config = old_config(optimizer=dict(type="SGD", lr=0.1, maximize=True), fancy=dict(x=1), optimizer_confg=dict(a=1))
    config["data"] = {**config["data"], "odd": [1]}
    draft = imported(tmp_path, config)
    told = {remark.place: remark.reason for remark in draft.remarks}
    assert told["optimizer.maximize"] == "True has no counterpart here"
    assert told["data.odd"] == "[1] has no counterpart here"
    assert 'Did you mean "optimizer_config"?' in told["optimizer_confg"]
    assert "fancy" not in told  # the file's own helper


def test_code_is_not_run_and_stops_the_import_only_where_its_value_is_needed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = write_config(Path("net_8xb32.py"), old_config()).read_text()
    Path("net_8xb32.py").write_text("import os\nos.system('touch ran')\nhelper = os.environ\n" + text)
    draft = import_config("net_8xb32.py")
    assert remarks(draft) == "net_8xb32.py, line 2: `os.system('touch ran')` is code, which is not run"
    assert "# - net_8xb32.py, line 2: `os.system('touch ran')` is code" in import_as_recipe("net_8xb32.py")
    Path("net_8xb32.py").write_text("import os\n" + text.replace("'lr': 0.1", "'lr': float(os.environ['LR'])"))
    with pytest.raises(UserError) as caught:
        import_config("net_8xb32.py")
    assert str(caught.value) == (
        "net_8xb32.py, line 4: `os` is a name that has no value here, but it is optimizer.lr; use the value itself."
    )
    assert not Path("ran").exists()


REFUSALS = [
    (
        dict(model=None),
        "model is missing; only configs with one label for each image (ImageClassifier) can be imported.",
    ),
    (dict(model=dict(type="MAE")), "model.type is 'MAE', which is no image classifier;"),
    (dict(model=5), "model is 5; a dict belongs there."),
    (dict(model={**RESNET, "head": None}), "model.head is missing: this config only makes features;"),
    (dict(model={**RESNET, "backbone": dict(type="VAN")}), "model.backbone.type is VAN, which neither"),
    (dict(model={**RESNET, "backbone": dict(type="ResNet", depth=51)}), "model.backbone.depth is 51; the depths"),
    (
        dict(model={**RESNET, "head": dict(type="ArcFaceClsHead")}),
        "model.head.type is ArcFaceClsHead, which is no linear classifier;",
    ),
    (dict(data=old_data("VOC")), "data.train.type is VOC, with several labels for each image;"),
    (dict(data=None), "data.train is missing; this config trains on nothing."),
    (dict(optimizer=None), "optimizer is missing; this config cannot be trained."),
    (dict(optimizer=dict(type="SGD")), "optimizer.lr is missing; set it to the learning rate."),
    (dict(optimizer=dict(type="Magic", lr=1)), "optimizer.type is 'Magic', which is not supported;"),
    (dict(optimizer=dict(type="SGD", lr="fast")), "optimizer.lr is 'fast'; use a number."),
    (dict(lr_config=dict(policy="wave")), "lr_config.policy is 'wave'; the policies known here are"),
    (dict(runner=None), "runner or train_cfg states no max_epochs;"),
    (dict(runner=dict(max_epochs=-1)), "runner.max_epochs is -1; use a number above 0."),
    (
        dict(lr_config=dict(policy="step", step="ten")),
        "lr_config.step is ['t', 'e', 'n']; use the epochs of its steps",
    ),
    (dict(optimizer=dict(type="AdamW", lr=1, betas=0.9)), "a setting has an unusual form (TypeError:"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSALS)
def test_what_has_no_counterpart_is_refused_in_one_line(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        imported(tmp_path, old_config(**changes))
    assert message in str(caught.value) and str(caught.value).count("\n") == 0
    assert str(caught.value).startswith(str(tmp_path / "net_8xb32_data.py"))


def test_the_command_prints_writes_and_never_overwrites(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(Path("net_8xb32.py"), old_config())
    assert main(["import-config", "net_8xb32.py"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# net_8xb32.py, imported by hf-finetune import-config\n_base_: [")
    assert main(["import-config", "net_8xb32.py", "-o", "mine.yaml"]) == 0
    assert capsys.readouterr().out == "The recipe is in mine.yaml.\n" and Path("mine.yaml").read_text() == printed
    Path("mine.yaml").write_text("mine")
    assert refuse(capsys, "import-config", "net_8xb32.py", "-o", "mine.yaml").startswith("--output: mine.yaml is there")
    assert Path("mine.yaml").read_text() == "mine"
    line = refuse(capsys, "import-config", "net_8xb32.py", "-o", "no/mine.yaml")
    assert line == "--output: there is no folder no; make it first."
    assert refuse(capsys, "import-config", "absent.py").startswith("there is no config absent.py.")
    assert "CONFIG.py" in refuse(capsys, "import-config")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "net_8xb32.py"]
