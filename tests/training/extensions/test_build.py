"""Which extensions the arguments ask for, and that none knows another or a Trainer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hf_finetune.training.extensions
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from hf_finetune.training.extensions.build import build_extensions

FOLDER = Path(hf_finetune.training.extensions.__file__).parent


def names(folder: Path, is_sharded: bool = False, **settings: object) -> list[str]:
    args = FinetuneArguments(output_dir=str(folder), use_cpu=True, **settings)
    return [type(extension).__name__ for extension in build_extensions(args, None, None, is_sharded)]


def test_the_arguments_decide(tmp_path: Path) -> None:
    always = ["UnreadableImages", "NonFiniteLosses", "SameBuffers"]
    assert names(tmp_path, disable_tqdm=False) == [*always, "LogLinesAndBar", "EpochOfDraws", "StopOnSignals"]
    assert names(tmp_path, disable_tqdm=True, save_on_signal=False, ema_decay=0.9) == [
        *always, "AveragedWeights", "LogLines", "EpochOfDraws",
    ]  # fmt: skip


@pytest.mark.parametrize("settings", [{"ema_decay": 0.9}, {"on_nan": ["skip", 1]}])
def test_what_needs_whole_weights_is_refused_where_they_are_divided(tmp_path: Path, settings: dict) -> None:
    with pytest.raises(UserError, match="FSDP"):
        names(tmp_path, is_sharded=True, **settings)
    assert "SameBuffers" in names(tmp_path, is_sharded=True)  # each rank has BatchNorm statistics of its own


def test_no_extension_knows_another_or_the_trainer() -> None:
    for file in FOLDER.glob("*.py"):
        imported = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
        own = {name for name in imported if name and name.startswith("hf_finetune.training.")}
        assert "hf_finetune.training.trainer" not in own, file.name
        if file.name != "build.py":
            siblings = {name for name in own if ".extensions." in name}
            assert siblings <= {"hf_finetune.training.extensions.base"}, file.name
