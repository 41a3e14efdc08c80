"""What several packages know of the files in the folder of a run: names and permissions."""

from __future__ import annotations

import os
import stat
from pathlib import Path

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.json"
CONFUSION_MATRIX_FILE = "confusion_matrix.png"
RELIABILITY_FILE = "reliability_diagram.png"
PRECISION_RECALL_FILE = "precision_recall.png"
TRAINING_CURVE_FILE = "training_curve.png"
REPORT_FILE = "report.html"
PREDICTIONS_FILE = "predictions.csv"  # of the split whose figures count
HISTORY_FILE = "history.csv"  # the log of the training
AUGMENTED_FILE = "augmented.jpg"  # a batch of training images as the network sees it
ENSEMBLE_FILE = "ensemble.json"  # names the members, folders beside it
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # by the names that PEFT gives them

_READ_AND_WRITE = 0o666


def apply_umask(path: Path) -> None:
    """Give a file, or all files below a folder, the permissions of a file that the user writes.

    Some libraries write through a private temporary file, so that `model.safetensors` would have mode 600 where the
    user's umask gives 644. A file that is executable stays so; links and files of other users are left alone.

    Args:
        path: The file or folder.
    """
    wanted = _READ_AND_WRITE & ~_umask()
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        status = file.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and mode | wanted != mode:
            file.chmod(mode | wanted)


def _umask() -> int:
    """Return the umask of this process, without setting it where Linux tells it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
    except (OSError, StopIteration):
        umask = os.umask(0o077)  # files that another thread creates meanwhile are private rather than public
        os.umask(umask)
        return umask
