"""A SLURM cluster of two nodes on this machine, with its own munge, folders and ports, for the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
# A job that is preempted has this long to save before it is killed (KillWait); a node is looked for every second.
_CONF = """\
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
SlurmctldPort={ports[0]}
SlurmctldPidFile={root}/slurmctld.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdLogFile={root}/slurmd.%n.log
SlurmdSpoolDir={root}/spool.%n
StateSaveLocation={root}/state
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=120
OverTimeLimit=0
MinJobAge=3600
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.2 Port={ports[2]} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


def is_installed() -> bool:
    """Whether SLURM and munge are there; they run as root only."""
    return os.geteuid() == 0 and all(shutil.which(name, path=_PATH) for name in NEEDED)


class Cluster:
    """Commands for a running cluster."""

    def __init__(self, root: Path) -> None:
        """Take the folder of the cluster's files."""
        self.root = root
        self.environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(root / "slurm.conf")}

    def run(self, *words: str, **environment: str) -> str:
        """Return what a command of SLURM prints."""
        completed = subprocess.run(
            words, env={**self.environment, **environment}, capture_output=True, text=True, timeout=60
        )
        assert completed.returncode == 0, f"{words}: {completed.stderr}"
        return completed.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """Return what SLURM knows of a job, such as its JobState and Restarts."""
        words = self.run("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = 240) -> None:
        """Wait for a condition, which is asked twice a second."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}\n{self.run('squeue', '-a')}\n{self.logs()}"
            time.sleep(0.5)

    def logs(self) -> str:
        """Return the ends of the logs of the cluster."""
        return "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.root.glob("*.log")))


@contextmanager
def slurm_cluster(root: Path) -> Iterator[Cluster]:
    """Start a cluster of two nodes, n1 and n2, and end it.

    Args:
        root: An empty folder for its files, whose path is short, because a socket lies in it.
    """
    root.chmod(0o755)
    (root / "state").mkdir()
    (root / "munge.key").write_bytes(secrets.token_bytes(128))
    (root / "munge.key").chmod(0o400)
    (root / "slurm.conf").write_text(_CONF.format(host=socket.gethostname(), root=root, ports=_free_ports(3)))
    cluster = Cluster(root)
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    options = [f"--{name}={root / file}" for name, file in (files | {"seed-file": "munge.seed"}).items()]
    daemons = [_start(cluster, "munged", "--foreground", "--force", *options)]
    try:
        cluster.wait_until((root / "munge.socket").exists, "munged has no socket", 20)
        daemons.append(_start(cluster, "slurmctld", "-D", "-f", str(root / "slurm.conf")))
        for node in ("n1", "n2"):
            daemons.append(_start(cluster, "slurmd", "-D", "-f", str(root / "slurm.conf"), "-N", node))
        cluster.wait_until(lambda: _states(cluster) == ["idle", "idle"], "the nodes are not idle", 60)
        yield cluster
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _states(cluster: Cluster) -> list[str]:
    completed = subprocess.run(
        ["sinfo", "-h", "-N", "-p", "low", "-o", "%t"], env=cluster.environment, capture_output=True, text=True
    )
    return completed.stdout.split()


def _start(cluster: Cluster, program: str, *options: str) -> subprocess.Popen[bytes]:
    path = shutil.which(program, path=_PATH)
    assert path is not None
    with open(cluster.root / f"{program}.out", "ab") as output:
        return subprocess.Popen([path, *options], env=cluster.environment, stdout=output, stderr=output)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
