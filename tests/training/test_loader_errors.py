"""What fails in a loader's workers, in one line: real workers that are killed or raise."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from hf_finetune.data.collate import pass_on
from hf_finetune.data.images.decoding import UnreadableImage
from hf_finetune.errors import LoadingError, UserError
from hf_finetune.training.loader_errors import leave_a_lost_parent_to_itself, loader_errors_in_one_line


class Failing(Dataset):
    """Zeros, but for one batch that fails as its `failure` does."""

    def __init__(self, failure: object) -> None:
        self.failure = failure

    def __len__(self) -> int:
        return 32

    def __getitems__(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        if 17 in rows and get_worker_info() is not None:
            self.failure()
        return {"labels": torch.zeros(len(rows), dtype=torch.int64)}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mistake() -> None:
    try:
        raise KeyError("an inner error")
    except KeyError as error:
        raise UserError("One line: with a colon; and a remedy.") from error


def unreadable() -> None:
    raise UnreadableImage("cats/3.jpg", "cut short")


def bug() -> None:
    raise ValueError("a mistake of the program's own")


def load(failure: object) -> None:
    batches = iter(DataLoader(Failing(failure), batch_size=4, num_workers=2, collate_fn=pass_on))
    try:
        with loader_errors_in_one_line():
            list(batches)
    finally:
        batches._shutdown_workers()  # or the garbage collector waits five seconds for each


def test_a_killed_worker_is_one_line():
    with pytest.raises(LoadingError) as caught:
        load(kill)
    message = str(caught.value)
    assert message.startswith("A process that loads images ") and "\n" not in message
    assert message.endswith("for want of memory, use a lower --dataloader_num_workers.")


def test_an_error_of_ours_in_a_worker_has_its_own_words():
    with pytest.raises(UserError) as caught:
        load(mistake)
    assert str(caught.value) == "One line: with a colon; and a remedy."
    with pytest.raises(UserError) as caught:
        load(unreadable)
    assert str(caught.value) == "cats/3.jpg cannot be read as an image: cut short."


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ValueError, match="in bug\n"):
        load(bug)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "DataLoader worker (pid 12) is killed by signal: Killed. ",
            "was ended by the signal Killed; where the system",
        ),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "ended unexpectedly; where the system"),
        (
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are"
            " out of shared memory. Please try to raise your shared memory limit.",
            "is full; make it larger (docker run --shm-size 8g), or use --dataloader_num_workers 0.",
        ),
        (
            "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            "RuntimeError: unable to allocate shared memory(shm) for file </torch_9300_1_1>: No space left on device",
            "is full; make it larger",
        ),
        ("Too many open files. Communication with the workers is no longer possible.", "ulimit -n 65536"),
        ("Caught ConnectionResetError in pin memory thread for device 0.", "ended unexpectedly"),
    ],
)
def test_what_torch_says_is_understood(error, words):
    with pytest.raises(LoadingError) as caught, loader_errors_in_one_line():
        raise RuntimeError(error)
    assert words in str(caught.value) and "\n" not in str(caught.value)


class ReportedLate(ConnectionResetError):
    """A broken connection, while whose message is read torch's signal handler reports why."""

    def __str__(self) -> str:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")


def test_a_report_that_comes_while_an_error_is_looked_at_is_one_line():
    with pytest.raises(LoadingError, match="was ended by the signal Killed; where"), loader_errors_in_one_line():
        raise ReportedLate


def test_other_errors_pass():
    for error in (RuntimeError("CUDA out of memory"), OSError("disk"), KeyError("key")):
        with pytest.raises(type(error)), loader_errors_in_one_line():
            raise error


def test_a_worker_says_nothing_of_a_main_process_that_has_gone(monkeypatch):
    said: list[type] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *rest: said.append(kind))
    leave_a_lost_parent_to_itself()
    for error in (ConnectionResetError(), BrokenPipeError(), ValueError()):
        sys.excepthook(type(error), error, None)
    assert said == [ValueError]
