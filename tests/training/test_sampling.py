"""Each image of an epoch counts once, or as its class asks for, also where several processes need equal batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import BatchSampler

from hf_finetune.training.sampling import ClassQuotas, CountedOnce, EpochSampler, LastTwoTogether, Repetition, Unpaired
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer


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


# ---- quotas of classes ----

CLASS_IDS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3, -100], [40, 7, 1, 2, 3]))
QUOTAS = np.array([12, 12, 26, 3])


def test_an_epoch_has_the_quota_of_each_class_and_a_run_shows_the_images_of_a_class_equally_often():
    quotas, seen = ClassQuotas(CLASS_IDS, QUOTAS, seed=5), np.zeros(len(CLASS_IDS), np.int64)
    assert quotas.count == 53 and quotas.times.tolist() == [12 / 40, 12 / 7, 26, 1.5]
    for epoch in range(9):
        rows = quotas.rows(epoch)
        assert len(set(rows.tolist())) == len(rows) == quotas.count  # a repetition is a number of its own
        assert rows.min() >= 0
        seen += np.bincount(rows % len(CLASS_IDS), minlength=len(CLASS_IDS))
        assert np.bincount(CLASS_IDS[rows % len(CLASS_IDS)]).tolist() == QUOTAS.tolist()
        for class_id, quota in enumerate(QUOTAS):
            of_class = seen[class_id == CLASS_IDS]
            assert of_class.sum() == (epoch + 1) * quota and of_class.max() - of_class.min() <= 1
    assert not seen[CLASS_IDS < 0].any()


def test_the_images_of_an_epoch_depend_on_seed_and_epoch_alone():
    quotas = ClassQuotas(CLASS_IDS, QUOTAS, seed=5)
    later = quotas.rows(7).tolist()
    assert ClassQuotas(CLASS_IDS, QUOTAS, seed=5).rows(7).tolist() == later != quotas.rows(6).tolist()
    assert sorted(ClassQuotas(CLASS_IDS, QUOTAS, seed=6).rows(7)) != sorted(later)
    sampler = EpochSampler(53, 5, quotas=quotas)
    sampler.set_epoch(7)
    assert sorted(sampler) == sorted(later) and list(sampler) != later
    assert list(EpochSampler(53, 5, multiple=8, quotas=quotas))[:53] == list(EpochSampler(53, 5, quotas=quotas))


# ---- repeated augmentation ----


def repeated(count: int, times: int, batch: int, epoch: int = 0) -> list[list[int]]:
    """Return the rows of the steps of an epoch, with seed 0."""
    sampler = EpochSampler(count, seed=0, repetition=Repetition(times, batch))
    sampler.set_epoch(epoch)
    rows = list(sampler)
    return [rows[begin : begin + batch] for begin in range(0, count, batch)]


def test_a_step_has_the_images_that_timm_gives_to_its_ranks():
    count, ranks, epoch = 256 * 3, 4, 7
    samplers = [RepeatAugSampler(range(count), ranks, rank, num_repeats=3) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    theirs = [list(sampler) for sampler in samplers]
    for number, rows in enumerate(repeated(count, 3, 48, epoch)):
        at_once = [row for of_rank in theirs for row in of_rank[number * 12 : number * 12 + 12]]
        assert sorted(row % count for row in rows) == sorted(at_once)


@pytest.mark.parametrize(("count", "times", "batch"), [(50, 3, 12), (53, 3, 16), (7, 2, 32), (40, 5, 5), (61, 4, 7)])
def test_copies_are_in_one_step_have_draws_of_their_own_and_images_of_other_steps_are_others(count, times, batch):
    steps, seen = repeated(count, times, batch), []
    for rows in steps:
        assert len(set(rows)) == len(rows)
        images, copies = [row % count for row in rows], [row // count for row in rows]
        assert max(images.count(image) for image in images) <= times and max(copies) < times
        assert len(set(images)) == -(-len(rows) // times)
        if len(set(images)) > 1:  # MixUp and CutMix mix neighbours
            assert all(one != other for one, other in itertools.pairwise(images))
        seen += set(images)
    assert sum(map(len, steps)) == count and len(set(seen)) == len(seen) == Repetition(times, batch).shown(count)


def test_the_ranks_of_a_step_share_the_rows_that_one_would_have():
    sampler = EpochSampler(96, seed=0, repetition=Repetition(3, 24))
    for ranks, accumulated in ((2, 1), (3, 2)):
        batches = BatchSampler(sampler, 24 // ranks // accumulated, drop_last=False)
        shards = [list(BatchSamplerShard(batches, ranks, rank)) for rank in range(ranks)]
        for number, rows in enumerate(repeated(96, 3, 24)):
            passes = range(number * accumulated, (number + 1) * accumulated)
            assert sorted(rows) == sorted(row for shard in shards for at in passes for row in shard[at])


def test_a_step_is_filled_up_with_rows_that_do_not_count():
    rows = list(EpochSampler(10, 0, multiple=8, repetition=Repetition(2, 8)))
    assert rows[:10] == [*itertools.chain(*repeated(10, 2, 8))] and rows[10:] == [-1 - row for row in rows[:6]]


# ---- resumed runs ----


def in_quotas(trainer):
    trainer.quotas = ClassQuotas(trainer.train_dataset.labels, np.array([1, 50, 3, 10]), trainer.args.order_seed)


def in_copies(trainer):
    trainer.args.repeated_augmentation = 3


@pytest.mark.parametrize("choose", [in_quotas, in_copies])
@pytest.mark.slow
def test_a_resumed_run_sees_the_rest_of_the_images_of_its_epoch(tmp_path, choose):
    def make(folder, **settings):
        items = ({"RandomCrop": {"size": 16, "padding": 2}}, "RandomHorizontalFlip")
        trainer = make_trainer(tmp_path / folder, make_model("vit"), items=items, num_train_epochs=3, **settings)
        choose(trainer)
        return trainer

    whole = make("whole", save_strategy="steps", save_steps=6)
    whole.train()
    resumed = make("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    for (name, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
