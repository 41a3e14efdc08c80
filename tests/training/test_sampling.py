"""Each image of an epoch counts once, also where several processes need batches of one size."""

from __future__ import annotations

import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler

from hf_finetune.training.sampling import CountedOnce, EpochSampler, LastTwoTogether, Unpaired


class Batches:
    """Images that are their own row numbers."""

    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.tensor(rows), "labels": torch.tensor(rows) % 3}


@pytest.mark.parametrize(("count", "multiple"), [(12, 4), (13, 4), (3, 16), (5, 1)])
def test_repeats_fill_up_and_do_not_count(count, multiple):
    order = list(EpochSampler(count, seed=1))
    rows = list(filled := EpochSampler(count, seed=1, multiple=multiple))
    assert rows[:count] == order and sorted(order) == list(range(count))
    assert len(rows) == len(filled) and len(rows) % multiple == 0 and len(rows) - count < multiple
    batch = CountedOnce(Batches()).__getitems__(rows)
    assert batch["labels"].tolist() == [row % 3 for row in order] + [-100] * (len(rows) - count)
    assert batch["pixel_values"].tolist()[count:] == [order[at % count] for at in range(len(rows) - count)]


def test_each_epoch_has_an_order_of_its_own_which_is_accelerates():
    sampler, orders = EpochSampler(50, seed=3), []
    for epoch in (0, 1, 2):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        theirs = SeedableRandomSampler(range(50), data_seed=3, generator=torch.Generator())
        theirs.set_epoch(epoch)
        assert orders[-1] == list(theirs) == list(sampler)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert list(EpochSampler(50, seed=4)) == orders[1] != list(EpochSampler(50, seed=3))


def test_orders_longer_than_a_chunk_are_whole():
    assert sorted(EpochSampler(10_000, seed=0)) == list(range(10_000))


def test_wrapping_changes_no_length():
    assert len(CountedOnce([1, 2, 3])) == 3


@pytest.mark.parametrize("count", [2, 3, 17])
def test_the_last_two_rows_come_together_and_the_order_stays(count):
    order = list(EpochSampler(count, seed=1))
    pairs = list(together := LastTwoTogether(EpochSampler(count, seed=1)))
    assert len(pairs) == len(together) == count - 1 and pairs[-1] == tuple(order[-2:])
    assert Unpaired(Batches()).__getitems__(pairs)["pixel_values"].tolist() == order
    assert len(Unpaired([1, 2, 3])) == 3
