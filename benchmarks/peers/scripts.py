"""The training scripts of the peers that are not on PyPI, fetched into a folder that is not committed."""

from __future__ import annotations

import urllib.request
from pathlib import Path

_RAW = "https://raw.githubusercontent.com"
TRANSFORMERS = "run_image_classification.py"
TIMM = "train.py"
TORCHVISION = "torchvision_references/train.py"
_REFERENCES = f"{_RAW}/pytorch/vision/v0.22.0/references/classification"
_ADDRESSES = {
    TRANSFORMERS: f"{_RAW}/huggingface/transformers/v4.57.6/examples/pytorch/image-classification/{TRANSFORMERS}",
    TIMM: f"{_RAW}/huggingface/pytorch-image-models/v1.0.24/{TIMM}",
    **{
        f"torchvision_references/{name}.py": f"{_REFERENCES}/{name}.py"  # modules that the script imports
        for name in ("train", "presets", "sampler", "transforms", "utils")
    },
}


def fetch_scripts(folder: Path) -> None:
    """Fetch the scripts that a folder lacks.

    Args:
        folder: Where they are put; a script that is there is used as it is.

    Raises:
        SystemExit: An address does not answer.
    """
    for name, address in _ADDRESSES.items():
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with urllib.request.urlopen(address, timeout=60) as answer:
                    path.write_bytes(answer.read())
            except OSError as error:
                raise SystemExit(f"{address} was not fetched ({error}). Put a copy at {path}.") from error
