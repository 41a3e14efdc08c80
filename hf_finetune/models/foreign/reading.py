"""Reads a state dict of another library. Only tensors and plain values are read; no code of a file runs.

A file is in the format of safetensors, or of `torch.save`, which is read with `weights_only=True`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.models.foreign.download import check_hash, fetch, is_url
from hf_finetune.models.torch_file import NotDataError, open_as_data

_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")

# The keys under which training programs save the weights. Averaged weights come first, because they are what the
# program's author evaluated. (MMEngine swaps the two when it saves, so that its "state_dict" is the average.)
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "module")
# Prefixes of all names: of torch's wrappers for several devices and for compilation, and of Lightning's attribute.
_PREFIXES = ("module.", "_orig_mod.", "model.")
# MMPretrain's classifier has a backbone beside its head; in torchvision's detectors it is one level deeper.
_BACKBONE = re.compile(r"^backbone\.(?:body\.)?")
# Objects that training programs save beside the weights. An empty object replaces them, so none of their code runs.
_REPLACED = (
    "argparse.Namespace",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
)


@dataclass(frozen=True)
class StateDict:
    """The tensors of a file.

    Attributes:
        file_name: The file's name, for reports.
        tensors: The tensors by their names, without the prefixes of wrappers.
        label_names: The names of the classes, None where the file does not have them.
    """

    file_name: str
    tensors: dict[str, torch.Tensor]
    label_names: list[str] | None


def read_state_dict(source: str, sha256: str | None = None) -> StateDict:
    """Read a state dict from a file or an address.

    Args:
        source: A path or an address.
        sha256: The beginning of the file's SHA-256; None takes it from the file's name, where that ends in it.

    Raises:
        UserError: The file cannot be had, has another hash, or is not a file of tensors.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{8,64}", sha256 := sha256.lower()):
        raise UserError(f'load_from_sha256 is "{sha256}"; use 8 to 64 hexadecimal digits.')
    if is_url(source):
        path = fetch(source, lambda path, name: check_hash(path, name, sha256))
    else:
        path = _find(source)
        check_hash(path, path.name, sha256)
    tensors, label_names = _unwrap(_open(path), path.name)
    return StateDict(path.name, tensors, label_names)


def _find(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "config.json").is_file():
            raise UserError(f"load_from: {source} is a folder of Transformers; use --model_name_or_path {source}.")
        raise UserError(f"load_from: {source} is a folder; use the file with the weights, such as {source}/model.pth.")
    near = [file.name for file in path.parent.glob("*") if file.suffix in _SUFFIXES] if path.parent.is_dir() else []
    raise UserError(f"load_from: there is no file {source}.{did_you_mean(path.name, near)}")


def _open(path: Path) -> Any:
    try:
        return load_file(path) if path.suffix == ".safetensors" else open_as_data(path, _REPLACED)
    except OSError as error:
        raise UserError(f"load_from: {path} cannot be read ({error.strerror or error}).") from error
    except (SafetensorError, LookupError, RuntimeError, ValueError, NotDataError) as error:
        if isinstance(error, NotDataError) and error.code is not None:
            raise UserError(
                f"load_from: {path.name} {error}; where you trust it, load it yourself and save its state_dict() alone."
            ) from error
        raise UserError(
            f"load_from: {path.name} is neither safetensors nor a file of torch.save; it may be an incomplete download."
        ) from error


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and any(isinstance(value, torch.Tensor) for value in content.values())


def _label_names(content: Mapping[str, Any]) -> list[str] | None:
    """Return the class names that MMClassification (`meta.CLASSES`) or MMEngine (`meta.dataset_meta`) saved."""
    meta = content.get("meta")
    if not isinstance(meta, Mapping):
        return None
    dataset = meta.get("dataset_meta")
    names = meta.get("CLASSES") or (dataset.get("classes") if isinstance(dataset, Mapping) else None)
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else None


def _unwrap(content: Any, file_name: str) -> tuple[dict[str, torch.Tensor], list[str] | None]:
    label_names = _label_names(content) if isinstance(content, Mapping) else None
    while not _is_state_dict(content):
        mapping = content if isinstance(content, Mapping) else {}
        content = next((mapping[key] for key in _WRAPPERS if isinstance(mapping.get(key), Mapping)), None)
        if content is None:
            keys = f"; its keys are {', '.join(map(str, list(mapping)[:5]))}" if mapping else ""
            raise UserError(
                f"load_from: there is no state dict in {file_name}{keys}; save it with torch.save(model.state_dict(),"
                f' "{file_name}").'
            )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    while prefix := next((prefix for prefix in _PREFIXES if _stands_before_most(prefix, tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {_BACKBONE.sub("", name): value for name, value in tensors.items()}, label_names


def _stands_before_most(prefix: str, names: Collection[str]) -> bool:
    # Not before all: averaged weights come with a counter, and a Lightning module may have a metric beside its model.
    return 2 * sum(name.startswith(prefix) for name in names) > len(names)
