"""Freed memory is kept for the next step, and given back before the process forks."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import pytest

from tests.helpers.launched import run_in

SCRIPT = """
import json, os, sys
import torch
from hf_finetune.host_memory import keep_freed_memory

def megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

for _ in range(2):  # a second training of the same process
    keep_freed_memory(torch.device("cpu"))
before = megabytes()
held = [bytearray(b"1" * 10**6) for _ in range(100)]
del held
kept = megabytes()
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
print(json.dumps([kept - before, megabytes() - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="needs glibc and /proc")
def test_kept_memory_is_given_back_before_a_fork(tmp_path: Path) -> None:
    (tmp_path / "fork.py").write_text(SCRIPT)
    ended = run_in(1, tmp_path / "fork.py")
    assert ended.returncode == 0, ended.stderr
    kept, after = json.loads(ended.stdout)
    assert kept > 80 and after < 20
