"""Which files of a result folder are pushed: those that a run, an export or a conversion of this package writes.

They are known by their names, so that the rule also holds for folders of earlier versions. A card that the user has
edited is still the card. Links are never followed: what they point to is not the run's.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_imports

from hf_finetune.config.run_files import (
    ADAPTER_FILES,
    AUGMENTED_FILE,
    CONFUSION_MATRIX_FILE,
    HISTORY_FILE,
    METRICS_FILE,
    PRECISION_RECALL_FILE,
    PREDICTIONS_FILE,
    RECIPE_FILE,
    RELIABILITY_FILE,
    REPORT_FILE,
    TRAINING_CURVE_FILE,
)

_PUSHED = {
    "README.md", "config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json",
    "model.onnx", "model_int8.onnx", RECIPE_FILE, METRICS_FILE, CONFUSION_MATRIX_FILE, RELIABILITY_FILE,
    TRAINING_CURVE_FILE, PRECISION_RECALL_FILE, HISTORY_FILE, *ADAPTER_FILES,
}  # fmt: skip
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# Written by the run, with images of the dataset or the names of all its files, which may be private.
_SHOWS_DATA = (REPORT_FILE, PREDICTIONS_FILE, AUGMENTED_FILE)
# Written by the run, and of use here alone: for a resume, for a tracker, with names of this machine's files.
_STAYS = (
    "checkpoint-*", "corrupt-checkpoint-*", "optimizer*", "rng_state*", "scaler.pt", "scheduler.pt",
    "training_args.bin", "unreadable_images.jsonl", "runs", "__pycache__", ".unfinished", ".recipe.yaml.unfinished",
    ".lock", ".gitattributes", "held_out.safetensors", *_SHOWS_DATA,
)  # fmt: skip


def pushed_files(folder: Path) -> list[Path]:
    """Return the files of a result folder that are pushed, sorted by name."""
    names = _PUSHED | set(_code_files(folder))
    return [
        path
        for path in sorted(folder.iterdir())
        if _is_own_file(path) and (path.name in names or _SHARD.fullmatch(path.name))
    ]


def kept_back(folder: Path) -> list[str]:
    """Return the names of the run's files that show images of the dataset or the names of its files."""
    return [name for name in _SHOWS_DATA if (folder / name).is_file()]


def left_out(folder: Path) -> list[str]:
    """Return the names of what lies in a result folder and is not the run's: `notes.txt`, `data/`, `x (a link)`."""
    pushed = set(pushed_files(folder))
    return [
        f"{path.name} (a link)" if path.is_symlink() else f"{path.name}{'/' * path.is_dir()}"
        for path in sorted(folder.iterdir())
        if path not in pushed and (path.is_symlink() or not any(fnmatch(path.name, pattern) for pattern in _STAYS))
    ]


def _is_own_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _code_files(folder: Path) -> Iterator[str]:
    """Yield the names of the Python files that the saved configs name, and of those that these import."""
    for name in ("config.json", "preprocessor_config.json"):
        path = folder / name
        if path.exists() and _is_own_file(path):
            config = json.loads(path.read_text(encoding="utf-8"))
            named = [*config.get("auto_map", {}).values()]
            named += [entry.get("impl") for entry in config.get("custom_pipelines", {}).values()]
            for module in _modules(named):
                yield module
                if (folder / module).exists() and _is_own_file(folder / module):
                    yield from (f"{imported}.py" for imported in get_relative_imports(folder / module))


def _modules(named: Any) -> Iterator[str]:
    """Yield `lenet5.py` for "lenet5.LeNet5"; code of another repository ("owner/name--module.Class") has no file."""
    for item in named:
        if isinstance(item, list):  # a slow and a fast class
            yield from _modules(item)
        elif isinstance(item, str) and re.fullmatch(r"[A-Za-z_]\w*\.\w+", item):
            yield f"{item.split('.')[0]}.py"
