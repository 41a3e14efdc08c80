"""Two hosts on one machine: network namespaces joined by a pair of virtual Ethernet devices, each with an address."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.processes import REPOSITORY

SCRIPT = str(REPOSITORY / "scripts" / "run_finetune.py")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Host:
    """One host: its address, and what was started on it."""

    def __init__(self, namespace: str, device: str, address: str) -> None:
        self.namespace, self.device, self.address = namespace, device, address
        self.started: list[subprocess.Popen[str]] = []

    def start(self, command: list[str], log: Path, **environment: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "GLOO_SOCKET_IFNAME": self.device,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            **environment,
        }
        with log.open("a") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                cwd=REPOSITORY,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.append(process)
        return process

    def processes(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], check=True, capture_output=True, text=True)
        return [int(word) for word in listed.stdout.split()]

    def workers(self) -> list[int]:
        """Returns the processes that train, by the variable that only those of a launcher have."""
        found = []
        for pid in self.processes():
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(entry.startswith(b"LOCAL_RANK=") for entry in environment):
                found.append(pid)
        return found

    def stop(self) -> None:
        """Ends all that runs on it, as a power cut would."""
        for pid in self.processes():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        for process in self.started:
            process.wait(timeout=30)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Makes the hosts and takes them away; the test is skipped where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    number = os.getpid()
    first = Host(f"hffa{number}", f"va{number}", "10.77.0.1")
    second = Host(f"hffb{number}", f"vb{number}", "10.77.0.2")
    made: list[Host] = []
    try:
        try:
            for host in (first, second):
                ip("netns", "add", host.namespace)
                made.append(host)
            ip("link", "add", first.device, "type", "veth", "peer", "name", second.device)
            for host in (first, second):
                ip("link", "set", host.device, "netns", host.namespace)
                ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.device)
                ip("-n", host.namespace, "link", "set", "lo", "up")
                ip("-n", host.namespace, "link", "set", host.device, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.decode().strip()}")
        yield first, second
    finally:
        for host in made:
            host.stop()
            ip("netns", "del", host.namespace)


def torchrun(first: Host, own: Host, restarts: int) -> list[str]:
    is_first = "true" if own is first else "false"
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
        *("--max_restarts", str(restarts), "--rdzv_backend", "c10d", "--rdzv_id", "job"),
        *("--rdzv_endpoint", f"{first.address}:29400", "--rdzv_conf", f"is_host={is_first}"),
        *("--local_addr", own.address, "--monitor_interval", "0.2", SCRIPT),
    ]


def accelerate_launch(first: Host, own: Host, restarts: int) -> list[str]:
    return [
        *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"),
        *("--num_machines", "2", "--num_processes", "2", "--machine_rank", "0" if own is first else "1"),
        *("--main_process_ip", first.address, "--main_process_port", "29500", "--rdzv_backend", "static"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--max_restarts", str(restarts)),
        *("--monitor_interval", "0.2", SCRIPT),
    ]
