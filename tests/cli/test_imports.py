"""What commands import: mistakes are told without torch, and predictions need neither `datasets` nor a Trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import PIL.Image

HEAVY = ["torch", "transformers", "datasets", "pyarrow", "accelerate", "sklearn", "matplotlib", "pandas"]
# Commands that end without torch, with the code that they exit with.
LIGHT = {
    "recipes show finetune --explain --adam_beta1 0.5": 0,
    "train --help-all": 0,
    "train --learning_rat 1": 2,
    "train --dataset nowhere": 2,
    "train --dataset ./nowhere": 2,
    "train --recipe nonsense": 2,
    "train --dataset digits --adam_beta1 many": 2,
    "train --dataset digits --learning_rate -1": 2,
    "train --dataset digits --optim adamm": 2,
    "train --dataset digits --lr_scheduler_type cosin": 2,
    "train --dataset digits --bf16 --precision float32": 2,
    "train --dataset digits --freeze_epochs 300": 2,
    "train --dataset digits --validation_fraction 2": 2,
    "train --dataset digits --time_budget soon": 2,
    "train --dataset digits --lr_milestones -1": 2,
    "train --dataset digits --model_name_or_path ./nowhere": 2,
    "kfold --dataset nowhere": 2,
    "evaluate ./nowhere --dataset digits": 2,
    "evaluate resnet_small_cifar10 --dataset nowhere": 2,
    "compare ./nowhere ./nowhere": 2,
    "export ./nowhere": 2,
    "summary ./nowhere": 2,
    "check nowhere": 2,
    "stats nowhere": 2,
    "browse --dataset nowhere": 2,
    "schedule --dataset nowhere": 2,
    "predict resnet_small_cifar10 missing.jpg": 2,
    "predict ./nowhere .": 2,
    "explain ./nowhere .": 2,
    "predict resnet_small_cifar10 . --top_k 0": 2,
}
_RUN = """
import contextlib, io, json, sys
from hf_finetune.cli.main import main
found = {}
for command in json.loads(sys.argv[1]):
    told = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        try:
            code = main(command.split())
        except SystemExit as end:
            code = end.code
    found[command] = [code, told.getvalue(), [name for name in json.loads(sys.argv[2]) if name in sys.modules]]
print(json.dumps(found))
"""


def run(commands: list[str], modules: list[str], folder: Path) -> dict[str, tuple[int, str, list[str]]]:
    """Return for each command its exit code, what it said of mistakes, and which modules were imported until then."""
    words = [sys.executable, "-c", _RUN, json.dumps(commands), json.dumps(modules)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, str, list[str]]] = json.loads(done.stdout)
    return found


def test_mistakes_and_recipes_need_no_torch(tmp_path: Path) -> None:
    for command, (code, told, imported) in run([*LIGHT], HEAVY, tmp_path).items():
        assert (code, imported) == (LIGHT[command], []), command
        assert told.count("\n") == (code == 2), told


def test_a_prediction_imports_no_trainer_and_no_datasets(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    unneeded = [name for name in HEAVY if name not in ("torch", "transformers", "accelerate")]
    unneeded += ["transformers.trainer", "transformers.trainer_utils", "peft", "evaluate"]
    command = "predict resnet_small_cifar10 red.png"
    assert run([command], unneeded, tmp_path) == {command: [0, "", []]}
