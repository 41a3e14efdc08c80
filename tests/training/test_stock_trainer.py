"""What the package relies on in Transformers' Trainer, and that it relies on nothing else."""

from __future__ import annotations

import ast
import configparser
import multiprocessing
from pathlib import Path

import pytest
import transformers
from transformers import Trainer

import hf_finetune
from hf_finetune.training.stock_trainer import PRIVATE_ATTRIBUTES, PRIVATE_METHODS, SUPPORTED, missing_members
from tests.helpers.networks import make_model
from tests.helpers.sources import parsed
from tests.helpers.trainers import make_trainer

PACKAGE = Path(hf_finetune.__file__).parent
NAMES_OF_A_TRAINER = ("self", "trainer", "super()", "self._trainer")
KNOW_THE_TRAINER = {"training/trainer.py", "training/stock_trainer.py"}


def trees() -> dict[str, ast.Module]:
    return {file.relative_to(PACKAGE).as_posix(): parsed(file) for file in PACKAGE.rglob("*.py")}


def test_the_installed_transformers_has_all_private_members() -> None:
    faults = missing_members(Trainer)
    assert not faults, f"transformers {transformers.__version__}, but hf_finetune supports {SUPPORTED}: {faults}"


def test_setup_cfg_has_the_same_bounds() -> None:
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    assert f"transformers{SUPPORTED}" in setup["options"]["install_requires"].split()


class Changed:
    """A Trainer of a later version."""

    def _save(self, folder: str) -> None:
        self._tr_loss = 0.0


def test_another_version_is_told_clearly() -> None:
    faults = missing_members(Changed)
    assert "It lacks Trainer._save_checkpoint." in faults and "It lacks Trainer._total_loss_scalar." in faults
    assert "Trainer._save takes (folder) instead of (output_dir, state_dict)." in faults
    assert len(faults) == len(PRIVATE_METHODS) + len(PRIVATE_ATTRIBUTES) - 1


def test_one_class_derives_from_the_stock_trainer() -> None:
    derived = {
        (name, node.name)
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).rpartition(".")[2] in ("Trainer", "Seq2SeqTrainer", "ImageClassificationTrainer")
    }
    assert derived == {("training/trainer.py", "ImageClassificationTrainer")}


def test_private_members_of_the_stock_trainer_are_touched_in_one_place_and_listed() -> None:
    """An attribute counts as the Trainer's by its name, whatever object it is read from."""
    private = {name for name in vars(Trainer) if name.startswith("_") and not name.startswith("__")}
    source = ast.parse(Path(transformers.trainer.__file__).read_text())
    private |= {
        node.attr
        for node in ast.walk(source)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self" and node.attr.startswith("_")
    }
    private = {name for name in private if not name.startswith("__")}
    assert private > {*PRIVATE_METHODS, *PRIVATE_ATTRIBUTES}
    touched: set[str] = set()
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in NAMES_OF_A_TRAINER:
                member = node.attr
            elif isinstance(node, ast.FunctionDef) and name in KNOW_THE_TRAINER:
                member = node.name
            else:
                continue
            of_self = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
            if member in private and (name in KNOW_THE_TRAINER or not of_self):
                assert name in KNOW_THE_TRAINER, f"{name} touches Trainer.{member}"
                touched.add(member)
    assert touched == {*PRIVATE_METHODS, *PRIVATE_ATTRIBUTES}


@pytest.mark.slow
def test_workers_that_persist_end_with_the_trainer(tmp_path) -> None:
    settings = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "eval_strategy": "epoch"}
    trainer = make_trainer(tmp_path, make_model("resnet"), count=16, num_train_epochs=1, **settings)
    trainer.train()
    assert len(multiprocessing.active_children()) == 2
    trainer.end()
    assert not multiprocessing.active_children()
