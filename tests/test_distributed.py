"""How processes meet: under a name of their own at each attempt, whatever earlier ones left in the launcher's store."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch import distributed
from torch.distributed import FileStore, HashStore

from hf_finetune import distributed as processes
from hf_finetune.distributed import _agree_on_attempt, all_see, main_process_first

WORLD = 3


@pytest.fixture
def store(monkeypatch) -> HashStore:
    store = HashStore()
    monkeypatch.setattr(processes, "_store", store)
    return store


def in_each(work, *ranks: int) -> list:
    with ThreadPoolExecutor(len(ranks)) as pool:
        return [future.result(timeout=30) for future in [pool.submit(work, rank) for rank in ranks]]


def test_each_attempt_has_a_name_that_only_its_processes_share(store):
    names = set()
    for _ in range(3):  # the store outlives the attempts
        found = in_each(lambda rank: _agree_on_attempt(store, rank, WORLD, timedelta(seconds=20)), *range(WORLD))
        assert len(set(found)) == 1
        names.add(found[0])
    assert len(names) == 3


def test_a_process_that_does_not_come_is_named(store):
    store.set("asking/1", "a dead one")  # of an earlier attempt
    with pytest.raises(TimeoutError, match=r"Of 2 processes, \[1\] did not come"):
        _agree_on_attempt(store, 0, 2, timedelta(seconds=0.3))


@pytest.mark.parametrize(("silence", "said"), [(0.0, 1), (60.0, 0)])
def test_a_first_process_that_waits_says_for_whom(monkeypatch, caplog, silence, said):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_SECONDS_OF_SILENCE", silence)
    gone = threading.Event()
    caplog.set_level("INFO", "hf_finetune")
    monkeypatch.setattr(caplog.handler, "emit", lambda record: (lines.append(record.getMessage()), gone.set()))
    lines: list[str] = []

    def nobody_comes(*_, timeout: timedelta):
        gone.wait(10 * said)
        raise TimeoutError
        yield

    monkeypatch.setattr(processes, "rendezvous", nobody_comes)
    with pytest.raises(TimeoutError):
        processes.join_processes(use_cpu=True, timeout=timedelta(seconds=20))
    assert lines == ["Waiting for the 2 processes to meet at node-0:29500."] * said


def test_the_first_process_does_it_first_even_where_it_fails(store, monkeypatch):
    order, begun = [], threading.Event()
    monkeypatch.setattr(processes, "_waits", iter([7] * WORLD))  # each process counts for itself

    def work(rank: int) -> None:
        if rank == 0:
            begun.wait(5)
        else:
            begun.set()
        with main_process_first(rank, 0):
            order.append(rank)
            if rank == 0:
                raise OSError("the disk is full")

    with pytest.raises(OSError):
        in_each(work, *range(WORLD))
    assert order[0] == 0 and sorted(order) == [0, 1, 2]


@pytest.mark.parametrize("same", [True, False])
def test_a_folder_is_shared_where_all_see_what_one_writes(store, monkeypatch, tmp_path, same):
    monkeypatch.setattr(processes, "_waits", iter([3] * WORLD))
    folders = [tmp_path / "output", tmp_path / "output", tmp_path / ("output" if same else "elsewhere")]
    assert in_each(lambda rank: all_see(folders[rank], rank, WORLD), *range(WORLD)) == [same] * WORLD
    assert not list(tmp_path.iterdir())


def test_threads_of_a_process_come_to_rest_before_it_is_forked():
    script = (
        "import os, time; from hf_finetune import distributed as processes; processes.rest_before_forks();"
        "began = time.monotonic(); child = os.fork() or os._exit(0); os.waitpid(child, 0);"
        "print(time.monotonic() - began >= processes._REST_SECONDS)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed == "True\n"


def test_the_group_of_another_launcher_is_used(monkeypatch, tmp_path):
    """Ray Train makes the group before the training begins; its ranks wait for each other through the same store."""
    monkeypatch.setattr(processes, "_store", None)
    forks: list[str] = []
    monkeypatch.setattr(processes, "_make_forks_safe", forks.append)
    store = FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for _ in range(2):
            processes.join_processes(use_cpu=True, timeout=timedelta(seconds=20))
        assert processes.group_is_ready() and forks == ["gloo"]
        with main_process_first(0, 0):
            pass
        assert all_see(tmp_path, 0, 1)
    finally:
        distributed.destroy_process_group()
