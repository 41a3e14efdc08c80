"""Ctrl-C in the commands: noted, acted on at safe points, and never lost."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from hf_finetune.interrupts import NotedInterrupts, leave_if_interrupted, raised_interrupts
from tests.helpers.processes import REPOSITORY


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)


def test_it_is_raised_at_a_safe_point_and_nowhere_before():
    with NotedInterrupts("") as interrupts:
        leave_if_interrupted()
        interrupt()
        assert interrupts.noted
        with pytest.raises(KeyboardInterrupt):
            leave_if_interrupted()
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0  # the way out may take its time
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    leave_if_interrupted()


def test_one_without_a_safe_point_before_the_end_changes_nothing():
    with NotedInterrupts("end"):
        interrupt()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_hook_of_fork_does_not_swallow_it(capfd):
    """Logging's hook of fork is where one was lost: Python prints what is raised there and ignores it."""
    hooks = [interrupt]
    os.register_at_fork(after_in_parent=lambda: [hook() for hook in hooks])
    try:
        with NotedInterrupts(""):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            with pytest.raises(KeyboardInterrupt):
                leave_if_interrupted()
    finally:
        hooks.clear()
    assert "Exception ignored" not in capfd.readouterr().err


@pytest.mark.slow
def test_without_a_safe_point_the_process_ends_with_its_last_words():
    ended = run_script(
        "import os, signal, time\n"
        "from hf_finetune.interrupts import NotedInterrupts\n"
        "class Finalized:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT)\n"
        "with NotedInterrupts('hf-finetune: interrupted.\\n'):\n"
        "    Finalized()\n"
        "    time.sleep(50)\n"
    )
    assert ended.returncode == 130 and ended.stderr == "hf-finetune: interrupted.\n"


def test_a_child_process_is_interrupted_as_usual():
    with NotedInterrupts(""):
        child = os.fork()
        if child == 0:
            try:
                interrupt()
                time.sleep(10)
            except KeyboardInterrupt:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_wait_that_handles_it_is_interrupted_at_once():
    with NotedInterrupts("") as interrupts:
        with pytest.raises(KeyboardInterrupt), raised_interrupts():
            interrupt()
            time.sleep(10)
        assert not interrupts.raises
        interrupt()
        assert interrupts.noted
        with pytest.raises(KeyboardInterrupt), raised_interrupts():
            raise AssertionError("it was there before")
    with raised_interrupts():  # a Python program without the context
        pass


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_who_ignores_or_handles_it_keeps_that(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with NotedInterrupts("") as interrupts:
            interrupt()
            assert signal.getsignal(signal.SIGINT) is handler and not interrupts.noted
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone():
    failed: list[BaseException] = []

    def enter() -> None:
        try:
            with NotedInterrupts(""):
                leave_if_interrupted()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert failed == []


def test_it_is_noted_from_the_begin_of_a_command_to_its_end(monkeypatch, capsys):
    from hf_finetune.cli.commands import COMMANDS, Recipes
    from hf_finetune.cli.main import main

    def work(self, namespace) -> int:
        interrupt()
        logging.getLogger("test").info("it continues")
        leave_if_interrupted()
        raise AssertionError("a safe point was passed")

    monkeypatch.setattr(Recipes, "run", work)
    assert main(["recipes"]) == 130
    assert capsys.readouterr().err == "\nhf-finetune: interrupted.\n"
    monkeypatch.setattr(Recipes, "run", lambda self, namespace: interrupt() or 0)
    assert main(["recipes"]) == 0  # it came when all was done
    assert COMMANDS["recipes"].resumes is False
