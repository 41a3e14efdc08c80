"""The training scripts of the peers that are not on PyPI, fetched into a folder that is not committed."""

from __future__ import annotations

import urllib.request
from pathlib import Path

_RAW = "https://raw.githubusercontent.com"
TRANSFORMERS = "run_image_classification.py"
TIMM = "train.py"
_ADDRESSES = {
    TRANSFORMERS: f"{_RAW}/huggingface/transformers/v4.57.6/examples/pytorch/image-classification/{TRANSFORMERS}",
    TIMM: f"{_RAW}/huggingface/pytorch-image-models/v1.0.24/{TIMM}",
}


def fetch_scripts(folder: Path) -> None:
    """Fetch the scripts that a folder lacks.

    Args:
        folder: Where they are put; a script that is there is used as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, address in _ADDRESSES.items():
        path = folder / name
        if not path.exists():
            with urllib.request.urlopen(address, timeout=60) as answer:
                path.write_bytes(answer.read())
