"""How the C library treats memory that a step has freed, where the network runs on the CPU."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache, partial

import torch

# glibc's malloc.h: what a free chunk at the heap's end may grow to before it is returned, and from what size on a
# request gets pages of its own. The latter cannot be set above 32 MiB.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM_THRESHOLD, _LARGEST_MMAP_THRESHOLD = 2**31 - 1, 32 * 2**20


def keep_freed_memory(device: torch.device) -> None:
    """Let the process keep freed memory for its next step, where the network runs on the CPU.

    By default glibc returns the activations' memory when a step frees it, and the next step has to be given every page
    anew, zeroed. Kept, the small ResNet of 32 x 32 pixels trains in 17 ms instead of 22 ms a step of 128 on two cores
    (benchmarks/RESULTS.md); the peak stays what it was. Other C libraries are left as they are.
    """
    library = _glibc()
    if device.type == "cpu" and library is not None:
        library.malloc_trim(0)  # what loading has freed is not what a step needs
        library.mallopt(_M_TRIM_THRESHOLD, _LARGEST_TRIM_THRESHOLD)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        _give_back_at_forks()


def release_freed_memory(device: torch.device) -> None:
    """Give freed memory back to the system, where the network runs on the CPU.

    Where small results are kept from each batch they lie between its freed tensors, so that large ones fit nowhere and
    the heap of glibc grows: the same evaluation of 50,000 images of 21,841 classes took 0.9 GB in one process and 5 GB
    in another. Other C libraries are left as they are.
    """
    library = _glibc()
    if device.type == "cpu" and library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@cache
def _give_back_at_forks() -> None:
    """Give kept memory back before the process forks, as it does for each of its loader's workers.

    A child shares the pages of its parent. A kept page that the parent fills again would be copied, and the child would
    hold the old one for nothing: with ResNet-18 at 224 pixels an evaluation took 1.68 GB with its worker, now 1.14 GB.
    """
    library = _glibc()
    if library is not None:
        os.register_at_fork(before=partial(library.malloc_trim, 0))
