"""Streams: the order of an epoch, what is read for it and what is held, wherever a reader begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
import torch

from hf_finetune.data.images.decoding import UnreadableImage
from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.data.streaming.order import Arrangement
from hf_finetune.errors import UserError
from tests.helpers.streamed import fake_split

UNEVEN = [17, 0, 40, 3, 61, 1, 29, 52]  # 203 rows


class FakeStage:
    """Hands the rows on as they are; its epoch is what the order depends on."""

    def __init__(self, epoch: int = 0, unreadable: Sequence[int] = ()) -> None:
        self.epoch, self.unreadable = epoch, unreadable

    def __call__(self, rows: dict[str, list]) -> dict[str, torch.Tensor]:
        assert rows["image"] == [{"bytes": b"%d" % number, "path": None} for number in rows["sample_index"]]
        assert rows["label"] == [number % 10 for number in rows["sample_index"]]
        for number in rows["sample_index"]:
            if number in self.unreadable:
                raise UnreadableImage(f"{number}.png", "broken")
        return {"labels": torch.tensor(rows["label"]), "pixel_values": torch.tensor(rows["sample_index"])}


def make_batches(
    rows: Sequence[int] = UNEVEN, lanes: int = 1, epoch: int = 0, length: int | None = None, seed: int | None = 7
) -> StreamedBatches:
    batches = StreamedBatches(fake_split(rows), FakeStage(epoch))
    batches.arrange(Arrangement(sum(rows) if length is None else length, 8, lanes, block_size=20, seed=seed))
    return batches


def epoch_of(batches: StreamedBatches, first: int = 0, step: int = 1) -> list[list[int]]:
    length, size = batches.arrangement.length, batches.arrangement.batch_size
    starts = range(first * size, length, step * size)
    return [numbers(batches.__getitems__(range(start, min(start + size, length)))) for start in starts]


def order_of(batches: StreamedBatches) -> list[int]:
    return list(chain.from_iterable(epoch_of(batches)))


def numbers(batch: dict[str, torch.Tensor]) -> list[int]:
    assert torch.equal(batch["pixel_values"], batch["sample_index"])
    return batch["sample_index"].tolist()


@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 40])
def test_an_epoch_has_every_row_once_and_no_two_have_one_order(lanes: int) -> None:
    orders = [order_of(make_batches(lanes=lanes, epoch=epoch)) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(203))
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] != list(range(203))
    assert orders[0] == order_of(make_batches(lanes=lanes)), "the same seed and epoch, the same order"
    batches = make_batches(lanes=lanes)
    batches.arrange(Arrangement(203, 8, lanes, block_size=20, seed=8))
    assert orders[0] != order_of(batches)


def test_rows_of_many_shards_mix_in_a_block() -> None:
    batches = make_batches([5] * 40)
    first = numbers(batches.__getitems__(range(20)))
    assert len({number // 5 for number in first}) == 4, "a block of 20 rows has the rows of four shards"
    assert first != sorted(first)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("begin", [1, 2, 7, 20, 25])
def test_a_reader_may_begin_at_any_batch(lanes: int, begin: int) -> None:
    """As a resumed run does, whose workers have read nothing before."""
    assert epoch_of(make_batches(lanes=lanes), begin) == epoch_of(make_batches(lanes=lanes))[begin:]


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("readers", [1, 2, 3, 4])
def test_batches_do_not_depend_on_who_asks_for_them(lanes: int, readers: int) -> None:
    """Given the number of lanes, the workers and processes may be as many as they are."""
    whole = epoch_of(make_batches(lanes=lanes))
    for reader in range(readers):
        assert epoch_of(make_batches(lanes=lanes), reader, readers) == whole[reader::readers]


def test_each_worker_reads_its_own_shards() -> None:
    """Of a lane that begins within a shard this one alone is read by two."""
    rows = [10] * 40
    read: Counter[int] = Counter()
    for worker in range(4):
        batches = make_batches(rows, lanes=4)
        epoch_of(batches, worker, 4)
        read.update(set(batches.split.shards.read_rows))
        assert len(batches.split.shards.read_rows) <= 104 + 2 * 10
    assert set(read) == set(range(400)) and sum(read.values()) <= 400 + 2 * 3 * 10


@pytest.mark.parametrize(("count", "length"), [(203, 208), (3, 16), (1, 16)])
def test_the_end_of_an_epoch_is_filled_up_with_its_beginning(count: int, length: int) -> None:
    """Where processes must take as many steps; each image counts once."""
    batches = make_batches([count], lanes=2, length=length)
    rows = [row for start in range(0, length, 8) for row in batches.rows(range(start, start + 8))]
    assert sorted(row.sample_index for row in rows if row.label != -100) == list(range(count))
    assert len(rows) == length and all(row.sample_index < count for row in rows)


def test_a_last_batch_may_be_left_out() -> None:
    order = order_of(make_batches(lanes=2, length=192))
    assert len(order) == len(set(order)) == 192


@pytest.mark.parametrize("begin", [0, 5, 24])
def test_what_is_held_and_what_is_read_does_not_grow(begin: int) -> None:
    """A reader holds a block; one that begins in the middle reads less than a block that was read before."""
    for shards in (8, 80):
        batches = make_batches([100] * shards)
        read = batches.split.shards.read_rows
        for batch in range(begin, begin + 20):
            batches.__getitems__(range(8 * batch, 8 * batch + 8))
            (reader,) = batches._lanes.values()
            assert len(reader.held) <= 20
            handed_out = 8 * (batch + 1 - begin)
            assert len(read) <= handed_out + 20 + 20 + batches.split.shards.piece


def test_without_a_seed_the_order_is_the_source_s() -> None:
    assert order_of(make_batches(seed=None)) == list(range(203))
    batches = make_batches(lanes=3, seed=None)
    order = np.array(order_of(batches))
    assert order.tolist() == batches.arrangement.source_rows().tolist()
    assert order[np.argsort(batches.arrangement.source_rows())].tolist() == list(range(203))


def test_first_images_cost_no_block() -> None:
    batches = make_batches()
    assert numbers(batches.first(2)) == [0, 1]
    assert len(batches.split.shards.read_rows) <= batches.split.shards.piece


def test_a_worker_s_copy_begins_anew() -> None:
    batches = make_batches()
    batches.rows(range(4))
    assert batches._lanes and not batches.__getstate__()["_lanes"]


def test_an_unreadable_image_is_raised_or_stood_in_for() -> None:
    batches = StreamedBatches(fake_split([20]), FakeStage(unreadable=[2, 5, 7]))
    batches.arrange(Arrangement(20, 8))
    with pytest.raises(UnreadableImage, match="2.png"):
        batches.__getitems__(range(8))
    met = []
    batches.on_unreadable = lambda error, sample_index: met.append((error.name, sample_index))
    batch = batches.__getitems__(range(8))
    assert met == [("2.png", 2), ("5.png", 5), ("7.png", 7)]
    assert batch["pixel_values"].tolist() == [0, 1, 3, 3, 4, 6, 6, 0]
    assert batch["labels"].tolist() == [0, 1, -100, 3, 4, -100, 6, -100]
    with pytest.raises(UserError, match="none of 1 images in a row can be read"):
        batches.__getitems__([2])
