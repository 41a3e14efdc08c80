"""Freed memory is kept for the next step, and given back before the process forks."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="needs glibc and /proc")
def test_kept_memory_is_given_back_before_a_fork() -> None:
    printed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    kept, after = json.loads(printed)
    assert kept > 80 and after < 20
