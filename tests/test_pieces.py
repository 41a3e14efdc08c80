"""Work in pieces: each row once and in order, in one thread or in several as a row takes."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hf_finetune.pieces import Rows, in_pieces


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1_000])
def test_each_row_is_once_in_a_piece_in_order(count):
    found = list(in_pieces(lambda rows: rows.tolist(), np.arange(count)))
    assert [row for _, some in found for row in some] == list(range(count))
    assert all(rows.tolist() == some and some for rows, some in found)


def test_rows_that_take_no_time_stay_in_this_thread(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", time.thread_time)  # however long this process has to wait for a core
    threads = {thread for _, thread in in_pieces(lambda _: threading.get_ident(), np.arange(1_000))}
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("slow_piece", [0, 3])
def test_rows_that_are_waited_for_are_taken_by_several_threads_from_then_on(slow_piece):
    """The other threads wait for each other, so that none of them takes all."""
    together = threading.Barrier(2)

    def wait(rows: Rows) -> int:
        if rows[0] == 64 * slow_piece:
            time.sleep(0.001 * len(rows))
        elif rows[0] > 64 * slow_piece:
            together.wait(timeout=60)
        return threading.get_ident()

    threads = [thread for _, thread in in_pieces(wait, np.arange(64 * (slow_piece + 5)))]
    assert set(threads[: slow_piece + 1]) == {threading.get_ident()}
    assert len({*threads[slow_piece + 1 :]} - {threading.get_ident()}) >= 2


def test_an_error_of_any_piece_is_raised():
    def fail(rows: Rows) -> None:
        if 200 in rows:
            raise ValueError("row 200")

    with pytest.raises(ValueError, match="row 200"):
        list(in_pieces(fail, np.arange(1_000)))
