"""What is put off when Transformers is imported: nothing that uses it sees a difference."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_RUN = """
import json, pkgutil, sys
from importlib import import_module
from hf_finetune import jobs
from hf_finetune.cli.command import importing
with importing():
    import hf_finetune.training.run
found = {"of a run": [name for name in ("scipy.special", "scipy.stats", "scipy.sparse") if name in sys.modules]}
with importing():
    import hf_finetune.jobs.check
left_out = ["peft", "peft.tuners", "scipy.optimize", "sklearn", "matplotlib", "torch.utils.tensorboard"]
found["imported"] = [name for name in left_out if name in sys.modules]
names = [f"hf_finetune.jobs.{module.name}" for module in pkgutil.iter_modules(jobs.__path__)]
for name in (*names, "hf_finetune.hub.push", "hf_finetune.hub.space", "hf_finetune.serving.server"):
    with importing():  # a library that takes more of what is put off than a name would fail
        import_module(name)
found["jobs"] = len(names)

import torch, transformers
from transformers import trainer, trainer_utils
from transformers.loss import loss_for_object_detection
from transformers.utils import import_utils
models = sys.modules["transformers.models"]
as_stock = import_utils._LazyModule("models", models.__file__, import_utils.define_import_structure(models.__file__))
found["names"] = len(models._class_to_module)
found["same names"] = as_stock._class_to_module == models._class_to_module

network = torch.nn.Sequential(torch.nn.Linear(2, 2))
found["early"] = trainer_utils._is_peft_model(network), isinstance(network, trainer.PeftModel)
from peft import LoraConfig, get_peft_model
adapted = get_peft_model(network, LoraConfig(target_modules=["0"]))
found["late"] = trainer_utils._is_peft_model(torch.nn.Linear(2, 2)), isinstance(adapted, trainer.PeftModel)
rows, columns = loss_for_object_detection.linear_sum_assignment([[1, 0], [0, 1]])
found["assigned"] = columns.tolist()
import scipy.optimize
found["real"] = scipy.optimize.root.__module__.startswith("scipy.")
print(json.dumps(found))
"""


def test_what_is_put_off_is_there_when_it_is_used() -> None:
    pytest.importorskip("peft")
    done = subprocess.run([sys.executable, "-c", _RUN], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("names") > 1000 and found.pop("jobs") > 20
    assert found == {
        "imported": [],
        "of a run": [],
        "same names": True,
        "early": [False, False],
        "late": [False, True],
        "assigned": [1, 0],
        "real": True,
    }
