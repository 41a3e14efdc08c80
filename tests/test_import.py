"""Importing the package changes nothing of the process."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import hf_finetune


def test_the_version_is_that_of_the_package():
    assert hf_finetune.__version__ == metadata.version("hf-finetune")


_STATE = """
import os, signal, sys, warnings, json
def state():
    return [
        [str(item) for item in warnings.filters], dict(os.environ), repr(sys.excepthook), repr(sys.unraisablehook),
        [repr(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)], sys.path[:],
        repr(warnings.showwarning), [repr(item) for item in sys.meta_path],
        [repr(item) for item in __import__("logging").getLogger().handlers],
    ]
"""


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", _STATE + code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_changes_nothing_and_loads_nothing():
    code = (
        "before = state(); import hf_finetune; assert state() == before;"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    assert run_python(code).split() == ["[]"]


def test_what_all_tests_share_loads_nothing_heavy():
    """pytest-xdist reads it first, and then starts the processes that run the tests."""
    code = f"sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import tests.conftest; print([*sys.modules])"
    loaded = run_python(code)
    assert "'tests.conftest'" in loaded
    assert [name for name in ("torch", "transformers", "datasets", "matplotlib") if f"'{name}'" in loaded] == []


def test_importing_every_module_leaves_what_libraries_have_made():
    """Other libraries change the process when they are imported; the package's modules, all of them, do not."""
    code = """
import accelerate, datasets, evaluate, matplotlib.figure, sklearn.linear_model, scipy.special, torch, torchvision
import torchvision.io, transformers, transformers.trainer, huggingface_hub.repocard, torchvision.transforms.v2
import transformers.models.resnet.modeling_resnet, transformers.models.auto.modeling_auto, tqdm.auto
import transformers.image_processing_backends, matplotlib.backends.backend_agg, datasets.packaged_modules
import pkgutil, importlib, hf_finetune
before = state()
architectures = {"lenet5", "resnet_cifar", "fast_resnet"}
assert not architectures & set(transformers.CONFIG_MAPPING)
import hf_finetune.models
assert architectures <= set(transformers.CONFIG_MAPPING)
threads = torch.get_num_threads()
for module in pkgutil.walk_packages(hf_finetune.__path__, "hf_finetune."):
    if not module.name.startswith("hf_finetune.evaluation.modules") and not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            assert "hf_finetune" not in str(error.name), error
after = state()
for first, second in zip(before, after):
    assert first == second, (first, second)
assert torch.get_num_threads() == threads
"""
    run_python(code)
