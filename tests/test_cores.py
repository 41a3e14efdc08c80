"""Cores are those that the process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.cores import usable_cores


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/pods/one\n", {"pods/cpu.max": "250000 100000\n", "pods/one/cpu.max": "800000 100000\n"}, 2),
        ("0::/kubepods/not/visible\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 16),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "600000", "cpu/a/cpu.cfs_period_us": "100000"},
            6,
        ),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 16),
        ("4:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}, 16),
    ],
)
def test_quotas_of_cgroups_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    (tmp_path / "own").write_text(own)
    assert usable_cores(_write(tmp_path / "cgroups", files), tmp_path / "own") == cores


def test_without_cgroups_and_affinity_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_cores(tmp_path, tmp_path / "missing") == 12


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity exists on Linux only")
def test_affinity_counts() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from hf_finetune.cores import usable_cores; print(usable_cores())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "1"


def test_workers_of_the_loader_follow_from_usable_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("hf_finetune.config.training.usable_cores", lambda: 4)
    assert FinetuneArguments(output_dir=str(tmp_path)).dataloader_num_workers == 3


def test_no_module_counts_the_cores_of_the_machine() -> None:
    root = Path(__file__).parents[1] / "hf_finetune"
    found = [path.name for path in root.rglob("*.py") if "os.cpu_count" in path.read_text()]
    assert found == ["cores.py"]
