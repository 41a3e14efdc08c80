"""Each image of an epoch counts once, also where several processes need batches of one size."""

from __future__ import annotations

import pytest
import torch

from hf_finetune.training.sampling import CountedOnce, EpochSampler


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
