"""Splits in shards: their parts, reading from any row on, and a network that fails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hf_finetune.data.streaming import split as streamed_split
from hf_finetune.data.streaming.split import HoldOut, StreamedSplit
from hf_finetune.errors import UserError
from tests.helpers.streamed import fake_split

UNEVEN = [17, 0, 40, 3, 61, 1, 29, 52]  # 203 rows

# ---- parts of a split ----


def held_out(rows: Sequence[int], fraction: float, taken: bool, seed: int = 3) -> list[int]:
    split = fake_split(rows)
    part = StreamedSplit(split.shards, split.to_class_ids, "fake", 20, HoldOut(fraction, seed, taken))
    numbers = [row.sample_index for shard in range(len(rows)) for row in part.read(shard)]
    assert len(numbers) == len(part)
    return numbers


def test_what_is_held_out_is_drawn_by_row() -> None:
    kept, validation = held_out([1000] * 5, 0.1, False), held_out([1000] * 5, 0.1, True)
    assert sorted(kept + validation) == list(range(5000))
    assert 400 < len(validation) < 600  # a tenth, give or take nearly five standard deviations
    assert validation == held_out([313, 4687], 0.1, True), "however the rows lie in shards"
    assert validation != held_out([1000] * 5, 0.1, True, seed=4)


def test_a_part_is_streamed_from_any_place() -> None:
    split = fake_split(UNEVEN)
    part = StreamedSplit(split.shards, split.to_class_ids, "fake", 20, HoldOut(0.5, 3, False))
    for shard in range(len(UNEVEN)):
        rows = [row.sample_index for row in part.read(shard)]
        for first in range(len(rows) + 1):
            assert [row.sample_index for row in part.read(shard, first)] == rows[first:]


def test_a_limit_takes_as_few_shards_as_hold_it() -> None:
    split = fake_split([10] * 20)
    assert split.limit(45, seed=1) == 5
    assert len(split) == 45 and np.count_nonzero(split.counts) == 5
    numbers = [row.sample_index for shard in range(20) for row in split.read(shard)]
    assert len(set(numbers)) == 45
    other = fake_split([10] * 20)
    other.limit(45, seed=2)
    assert split.counts.tolist() != other.counts.tolist()


# ---- a network that fails ----


class Failing:
    """Raises each of some errors once, and None not."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)

    def __call__(self) -> None:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(streamed_split.time, "sleep", found.append)
    return found


def test_reading_continues_after_a_failure_of_the_network(pauses: list[float]) -> None:
    fault = ConnectionResetError("reset by peer")
    split = fake_split([50], fail=Failing(None, None, fault, fault, None, fault))
    assert [row.sample_index for row in split.read(0)] == list(range(50))
    assert pauses == [1, 4, 1], "longer pauses, and short ones again after a success"


def test_a_network_that_stays_away_ends_in_one_line(pauses: list[float]) -> None:
    split = fake_split([50], fail=Failing(*[TimeoutError("timed out")] * 9))
    with pytest.raises(
        UserError, match=r"^fake cannot be read any further: timed out; the same command resumes from the last"
    ):
        list(split.read(0))
    assert len(pauses) == 5


def test_what_is_not_there_is_not_waited_for(pauses: list[float]) -> None:
    split = fake_split([50], fail=Failing(FileNotFoundError("no such shard")))
    with pytest.raises(UserError, match="no such shard"):
        list(split.read(0))
    with pytest.raises(ZeroDivisionError):  # a fault of this package stays what it is
        list(fake_split([50], fail=Failing(ZeroDivisionError())).read(0))
    assert not pauses


def test_a_shard_that_was_written_anew_is_found_out() -> None:
    split = fake_split([50])
    split.shards.read = lambda shard, first: iter([])
    with pytest.raises(UserError, match="fewer rows than were counted"):
        list(split.read(0))
