"""Streamed datasets of a Hub: what is read of them before training, and how reading continues where the Hub fails."""

from __future__ import annotations

import datasets
import pytest

from hf_finetune.data.streaming.dataset import StreamedBatches
from hf_finetune.data.streaming.order import Arrangement
from hf_finetune.errors import UserError
from tests.helpers.streamed import images, labels_of, load, rows_of, write_lengths, write_parquet, write_tars


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server of datasets, to which `datasets` and huggingface_hub in this process are turned."""
    import huggingface_hub

    from tests.helpers.dataset_server import DatasetServer

    with DatasetServer({"me/pets": tmp_path / "pets"}) as server:
        (tmp_path / "pets").mkdir()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        yield server


def test_parquet_of_the_hub(hub, tmp_path) -> None:
    write_parquet(hub.folders["me/pets"], "train", 2000, files=4, row_group=100)
    write_parquet(hub.folders["me/pets"], "test", 50)
    data = load("me/pets", validation_fraction=0)
    assert (data.source, data.revision) == ("me/pets", "5" * 40)
    assert {role: len(split) for role, split in data.splits.items()} == {"train": 2000, "test": 50}
    train = data.splits["train"]
    sent, size = sum(hub.sent.values()), sum(path.stat().st_size for path in hub.files("me/pets").values())
    assert sent < 0.7 * size, "footers, of at most 64 kB each, and the first images"
    hub.sent.clear()
    rows = list(train.read(7, 50))
    assert [row.sample_index for row in rows] == list(range(750, 800))
    assert rows[0].image["bytes"] == images(2000)[0][750]
    assert 0 < sum(hub.sent.values()) < 1.2 * size / 20, "one row group of twenty, whatever lies before it"
    assert not [request for request in hub.requests if "datasets-server" in request]


def test_a_resumed_run_does_not_read_from_the_start(hub) -> None:
    """Of two lanes of a thousand images, in blocks of a hundred: one that is read again, and those that are left."""
    write_parquet(hub.folders["me/pets"], "train", 2000, files=4, row_group=50)
    split = load("me/pets", validation_fraction=0).splits["train"]

    def read_from(position: int) -> tuple[list[int], int]:
        batches = StreamedBatches(split, NoStage())
        batches.arrange(Arrangement(2000, 20, lanes=2, block_size=100, seed=1))
        hub.sent.clear()
        batch = [
            row.sample_index for start in range(position, 2000, 20) for row in batches.rows(range(start, start + 20))
        ]
        return batch, sum(hub.sent.values())

    whole, whole_bytes = read_from(0)
    assert sorted(whole) == list(range(2000))
    for begin in (1000, 1700, 1900):
        rest, rest_bytes = read_from(begin)
        assert rest == whole[begin:]
        # What is left, of each lane less than a block, and row groups that are begun at both ends.
        assert rest_bytes < whole_bytes * (2000 - begin + 2 * 100 + 4 * 50) / 2000 * 1.1


class NoStage:
    epoch = 0


def test_reading_continues_where_the_hub_fails_for_a_while(hub) -> None:
    write_parquet(hub.folders["me/pets"], "train", 60)
    data = load("me/pets", validation_fraction=0)
    hub.failures = 1
    assert [row.sample_index for row in rows_of(data.splits["train"])] == list(range(60))
    assert not hub.failures


def test_a_hub_that_goes_away_ends_in_one_line(hub, monkeypatch) -> None:
    write_parquet(hub.folders["me/pets"], "train", 60)
    data = load("me/pets", validation_fraction=0)
    pauses: list[float] = []
    monkeypatch.setattr("hf_finetune.data.streaming.split.time.sleep", pauses.append)  # huggingface_hub's own as well
    hub.close()
    with pytest.raises(
        UserError, match=r"^me/pets: split train cannot be read any further: .*; the same command resumes from"
    ):
        rows_of(data.splits["train"])
    assert {1, 4, 15, 60, 120} <= set(pauses)


def test_tars_of_the_hub_need_their_lengths(hub) -> None:
    write_tars(hub.folders["me/pets"], "train", 40, 3)
    with pytest.raises(UserError, match=r"not known before they are read; put _info.json beside them"):
        load("me/pets")


def test_tars_of_the_hub_need_their_classes(hub) -> None:
    write_lengths(write_tars(hub.folders["me/pets"], "train", 40, 3), train=[14, 13, 13])
    with pytest.raises(UserError, match="use --num_labels N for labels from 0 to N-1"):
        load("me/pets")
    data = load("me/pets", num_labels=3, validation_fraction=0)
    assert data.label_names == ["0", "1", "2"]
    assert labels_of(data.splits["train"]) == images(40)[1]


def test_classes_beyond_the_stated_number_are_named(hub) -> None:
    write_lengths(write_tars(hub.folders["me/pets"], "train", 40, 1), train=[40])
    with pytest.raises(UserError, match="row 2 of split train .* has the label 2, which is none of the 2 classes"):
        load("me/pets", num_labels=2)
