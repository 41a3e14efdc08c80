"""The SLURM script, with commands in place of SLURM's: what it starts, and what it does when its time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.processes import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "slurm.sh"
# Runs on this machine what srun would run on each node; its options come first.
SRUN = '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'
SCONTROL = """#!/bin/sh
case "$1" in
    show) if [ "$2" = node ]; then echo "   NodeAddr=10.0.0.$3 NodeHostName=$3"; else echo first; echo second; fi ;;
    requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""
# Sends a signal to the tasks of a step; the real srun kills its tasks when it is sent one itself.
SCANCEL = """#!/bin/sh
kill -TERM "$(cat "$REQUEUED.training")"
"""
# In place of Python: notes its arguments, waits, and ends as a training does that a signal stopped, or with $CODE.
PYTHON = """#!/bin/sh
trap 'echo stopped; exit 143' TERM
echo $$ > "$REQUEUED.training"
echo "started $*"
if [ -n "$CODE" ]; then exit "$CODE"; fi
while true; do sleep 0.1; done
"""


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """The environment of a job of two nodes, with the stand-ins before all other commands."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "scancel": SCANCEL, "trained": PYTHON}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "trained"),
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_NODEID": "1",
        "SLURMD_NODENAME": "second",
        "SLURM_GPUS_ON_NODE": "4",
    }


def start(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(["bash", str(SCRIPT), *words], env=environment, stdout=subprocess.PIPE, text=True)


def test_it_is_a_script_that_bash_reads():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_what_each_node_runs(slurm):
    with start({**slurm, "CODE": "0"}, "--dataset", "my images") as job:
        started = job.stdout.read().strip()
    assert job.returncode == 0
    assert started == (
        "started -m torch.distributed.run --nnodes 2 --nproc_per_node 4 --max_restarts 3 --rdzv_backend c10d"
        " --rdzv_id 17-0 --rdzv_endpoint 10.0.0.first:29400 --rdzv_conf is_host=false --local_addr 10.0.0.second"
        " scripts/run_finetune.py --dataset my images"
    )
    assert not Path(slurm["REQUEUED"]).exists()


def test_without_gpus_it_is_one_process_a_node(slurm):
    with start({**slurm, "CODE": "0", "GPUS_PER_NODE": "0", "SLURM_NODEID": "0"}) as job:
        started = job.stdout.read()
    assert "--nproc_per_node 1 " in started and "is_host=true" in started and started.rstrip().endswith("--use_cpu")


def test_the_end_of_its_time_stops_the_training_and_requeues(slurm):
    with start(slurm) as job:
        assert job.stdout.readline().startswith("started")
        time.sleep(0.1)
        job.send_signal(signal.SIGUSR1)
        assert job.stdout.read() == "stopped\n"
    assert Path(slurm["REQUEUED"]).read_text() == "17\n" and job.returncode == 0


def test_a_cancelled_job_waits_for_its_training_and_does_not_requeue(slurm):
    """SLURM sends TERM to the script and to the training."""
    with start(slurm) as job:
        assert job.stdout.readline().startswith("started")
        time.sleep(0.1)
        job.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert job.poll() is None
        subprocess.run([Path(slurm["PYTHON"]).with_name("scancel")], env=slurm, check=True)
        assert job.stdout.read() == "stopped\n"
    assert not Path(slurm["REQUEUED"]).exists() and job.returncode == 143


def test_a_mistake_is_not_tried_again(slurm):
    with start({**slurm, "CODE": "2"}) as job:
        job.stdout.read()
    assert job.returncode == 2 and not Path(slurm["REQUEUED"]).exists()
