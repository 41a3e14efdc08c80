"""Which checkpoints a run can resume from: whole ones, whose files are data of the kind that a run writes.

A manifest shows damage. It does not show who wrote a checkpoint: whoever replaces a file can list it anew. So each file
that a resumed run reads is opened as data first. No code of a file runs.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from hf_finetune.errors import UserError, first_line
from hf_finetune.logs import get_logger
from hf_finetune.models.torch_file import NotDataError, Replaced, open_as_data
from hf_finetune.training.checkpoints.resume import RESUME_FILE, ResumeState
from hf_finetune.training.checkpoints.store import STATE_FILE, find_fault

logger = get_logger(__name__)

# Objects beside tensors and plain values in the files of torch.save: in the states of random numbers, and in what
# DeepSpeed saves and itself opens without any check.
_BESIDE_TENSORS = (
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
# The objects in `.metadata` of torch.distributed.checkpoint (FSDP with SHARDED_STATE_DICT), which torch unpickles.
_IN_METADATA = {
    "pathlib": {"Path", "PosixPath"},
    "torch": {"Size", *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.serialization": {"_get_layout"},
}  # fmt: skip
# What content that is data, but not what a run writes, raises where it is used.
_OF_ANOTHER_KIND = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def why_unusable(checkpoint: Path) -> str | None:
    """Return what keeps a run from resuming from a checkpoint, or None.

    It is "optimizer.pt has 10 of 4,096 bytes" or "optimizer.pt holds a Python object (os.system), which may run code
    and is not opened".
    """
    fault = find_fault(checkpoint)
    if fault is not None:
        return fault
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        try:
            _check(file)
        except NotDataError as error:
            return f"{file.relative_to(checkpoint)} {error}"
        except OSError as error:
            return f"{file.relative_to(checkpoint)} cannot be read ({error.strerror})"
        except (SafetensorError, pickle.UnpicklingError, *_OF_ANOTHER_KIND):
            return f"{file.relative_to(checkpoint)} is not of the kind that a run writes"
    return None


@contextmanager
def misfits_told(checkpoint: Path, files: str) -> Iterator[None]:
    """Turn what a state of another network raises while it is restored into one `UserError`.

    Args:
        checkpoint: The checkpoint from which the run resumes.
        files: The files that are restored, for the message.

    Raises:
        UserError: They do not fit the network or the settings of the run.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _OF_ANOTHER_KIND as error:
        raise UserError(
            f"{checkpoint}: {files} cannot be restored in this run ({first_line(error)}); remove this checkpoint, and"
            " the same command resumes from the one before it."
        ) from error


def find_best_again(state: TrainerState, checkpoint: Path, is_chosen: bool) -> None:
    """Set the state's best checkpoint to the one that lies beside the resumed one, wherever the run was begun.

    Where the best checkpoint is missing or corrupt, nothing is the best any more.

    Args:
        state: Position and history of the run, which is changed.
        checkpoint: The checkpoint from which the run resumes.
        is_chosen: Whether the best checkpoint becomes the result (`load_best_model_at_end`). Then its loss is logged,
            and the best is chosen among the evaluations that follow.
    """
    recorded = TrainerState.load_from_json(str(checkpoint / STATE_FILE)).best_model_checkpoint
    if recorded is None:
        return
    best = checkpoint.with_name(Path(recorded).name)
    fault = why_unusable(best) if best.is_dir() else "it is missing"
    state.best_model_checkpoint = str(best) if fault is None else None
    if fault is not None and is_chosen:
        logger.warning(
            f"Note: the best checkpoint so far, {best.name}, is lost ({fault}); the best of those to come is chosen."
        )
        state.best_metric = state.best_global_step = None


def _check(file: Path) -> None:
    """Open one file of a checkpoint; what a resumed run does not read passes."""
    if file.name == STATE_FILE:
        _check_trainer_state(file)
    elif file.name == RESUME_FILE:
        _check_resume_state(file)
    elif file.suffix in (".pt", ".pth", ".bin"):
        with safe_globals():  # NumPy's state of random numbers, which the stock Trainer loads thus
            state = open_as_data(file, _BESIDE_TENSORS, mmap=True)
        if file.name.startswith("rng_state"):
            _check_random_states(state)
        elif file.name == "optimizer.pt":
            dict(state["state"]), list(state["param_groups"])
        elif not isinstance(state, dict):
            raise TypeError(file)
    elif file.suffix == ".safetensors":
        with safe_open(file, "pt") as tensors:
            tensors.keys()
    elif file.name.endswith(".metadata"):
        with file.open("rb") as stream:
            _MetadataReader(stream).load()


def _check_trainer_state(file: Path) -> None:
    state = TrainerState.load_from_json(str(file))
    is_known = (
        isinstance(state.global_step, int)
        and isinstance(state.best_model_checkpoint, str | None)
        and all(isinstance(entry, dict) for entry in state.log_history)
    )
    if not is_known or state.global_step < 0:
        raise TypeError(file)


def _check_resume_state(file: Path) -> None:
    losses = ResumeState.load(file.parent).running_loss
    losses.of_rank(0, 1) + losses.before + losses.last_logged_step  # numbers can be added


def _check_random_states(state: Any) -> None:
    """Restore the states of random numbers into generators that nothing uses."""
    random.Random().setstate(state["python"])
    np.random.RandomState().set_state(state["numpy"])
    torch.Generator().set_state(state["cpu"])


class _MetadataReader(pickle.Unpickler):
    """Unpickles without importing anything: each name that may stand there becomes a `Replaced`."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _IN_METADATA.get(module, ()):
            return Replaced
        raise NotDataError(f"{module}.{name}")
