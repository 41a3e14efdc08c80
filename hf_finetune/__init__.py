"""hf_finetune: fine-tunes image classifiers with Transformers, Datasets, Evaluate and Accelerate.

The public names are imported when they are first used, so that `import hf_finetune` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "FinetuneResult": "hf_finetune.training.run",
    "UserError": "hf_finetune.errors",
    "evaluate_model": "hf_finetune.jobs.evaluate",
    "export_model": "hf_finetune.jobs.export",
    "finetune": "hf_finetune.training.run",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("hf-finetune")  # setup.cfg states it
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
