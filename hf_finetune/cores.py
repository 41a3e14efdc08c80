"""How many CPU cores this process may use, which in a container or a job is less than the machine has."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the number of cores that this process may use, at least 1.

    It is the least of the cores of its affinity (`taskset`, Slurm) and of the quotas of its cgroups and of all above
    them, of version 1 or 2 (Docker, Kubernetes). A quota of 2.5 cores counts as 2.

    Args:
        cgroups: Where the cgroups are mounted.
        own: The file that names the cgroups of this process.
    """
    # Affinity exists on Linux only.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return cores
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 has a folder for each set of controllers, which is also there by the name of each.
        root = cgroups / "cpu" if controllers else cgroups
        # A container may see its own cgroup as the root, under another name than the file states.
        folder = root / path.lstrip("/")
        quotas = [_quota(place) for place in {root, folder, *folder.parents} if place.is_relative_to(root)]
        cores = min([cores, *(max(1, int(quota)) for quota in quotas if quota is not None)])
    return cores


def default_workers(cores: int, processes: int) -> int:
    """Return how many processes load images for each training process of a machine with GPUs.

    One core of its share is left to the training process itself. More than eight rarely help: a core decodes and
    crops 500 images of ImageNet's size a second (benchmarks/RESULTS.md).

    Args:
        cores: CPU cores of the machine that the run may use.
        processes: Training processes of the machine.
    """
    return min(8, max(1, cores // processes - 1))


def _quota(cgroup: Path) -> float | None:
    """Return the cores that a cgroup allows, None where it has no limit or cannot be read."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max", or -1 in version 1, is no limit
        return None
