"""What a streamed run resumes with, without a Trainer and without a stream."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hf_finetune.data.streaming.dataset import Arrangement
from hf_finetune.errors import UserError
from hf_finetune.training.extensions.streaming_state import StreamingState


class Stream:
    """103 rows of a stream that keeps what it is told."""

    def __init__(self, lanes: int = 2, batch_size: int = 16, shards: str = "abc") -> None:
        self.split = SimpleNamespace(fingerprint=shards, buffer_size=40)
        self.arrangement = Arrangement(103, batch_size, lanes, 40 // lanes, 1)

    def __len__(self) -> int:
        return 103

    def arrange(self, arrangement: Arrangement) -> None:
        self.arrangement = arrangement


def test_the_same_stream_resumes_as_it_is() -> None:
    before = StreamingState(Stream(), 1).state_dict()
    resumed = Stream()
    arrangement = resumed.arrangement
    StreamingState(resumed, 1).load_state_dict(before)
    assert resumed.arrangement == arrangement
    StreamingState(resumed, 1).load_state_dict({})  # a checkpoint without state of a stream
    assert resumed.arrangement == arrangement


def test_other_workers_read_the_lanes_of_before(capsys: pytest.CaptureFixture[str]) -> None:
    resumed = Stream(lanes=1)
    StreamingState(resumed, 1).load_state_dict(StreamingState(Stream(lanes=4), 1).state_dict())
    assert (resumed.arrangement.lanes, resumed.arrangement.block_size) == (4, 10)
    assert "read fastest with --dataloader_num_workers 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stream", "ranks", "message"),
    [
        (Stream(shards="other"), 1, "The training shards, of 103 images, are not those with which the run was begun"),
        (Stream(batch_size=8), 1, "as it was begun with: 1 x 16, not 1 x 8;"),
        (Stream(), 2, "as it was begun with: 1 x 16, not 2 x 16;"),
    ],
)
def test_what_would_change_the_order_is_refused(stream: Any, ranks: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        StreamingState(stream, ranks).load_state_dict(StreamingState(Stream(), 1).state_dict())
