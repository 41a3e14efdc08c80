"""The comparison with other programs: their epochs, their commands and the table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.__main__ import Bench, epochs_within, fitting_epochs, parse
from benchmarks.accuracy.images import checkpoint_of_size
from benchmarks.accuracy.table import markdown
from benchmarks.peers.programs import OURS, PEERS, FineTuning, Job

TRIAL = {"start": 20.0, "image": 0.04}  # 1,000 images a minute
TRANSFORMERS = "Transformers run_image_classification.py"
FINE_TUNING = [name for name, peer in PEERS.items() if peer.fine_tunes]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    way = FineTuning(Path("/checkpoint"), 0.5)
    return Job("python", Path("/scripts"), Path("/images"), 96, 3, 7, tmp_path, way)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    checkpoint = tmp_path / "data" / "hub" / "models" / "timm" / "tf_efficientnet_lite0.in1k"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [3, 224, 224]}}))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("minutes", "images", "name", "expected"),
    [
        (1, 100, "timm train.py", (10, 100)),
        (1, 500, "timm train.py", (2, 500)),
        (1, 500, "fastai", (1, 500)),
        (1, 2_000, "timm train.py", (1, 1_000)),  # half of them once
        (1, 2_000, "fastai", (1, 500)),  # a quarter, twice
        (1, 2_000, TRANSFORMERS, (0.5, 2_000)),
        (0.3, 100, "timm train.py", (1, 0)),  # no time for its start
    ],
)
def test_epochs_end_in_time(minutes: float, images: int, name: str, expected: tuple[float, int]) -> None:
    assert epochs_within(minutes, images, TRIAL, PEERS[name]) == expected


def test_a_program_that_was_faster_or_slower_runs_again() -> None:
    timm, fastai, fractions = (PEERS[name] for name in ("timm train.py", "fastai", TRANSFORMERS))
    assert fitting_epochs(1, 40.0, 2, 20.0, timm) == 4  # of 10 seconds each
    assert fitting_epochs(1, 50.0, 1, 20.0, fastai) == 1  # of 15
    assert fitting_epochs(1, 55.0, 1, 20.0, fractions) == pytest.approx(1.1)
    assert fitting_epochs(1, 61.0, 2, 20.0, timm) == 2  # as good as in time
    assert fitting_epochs(1, 100.0, 4, 20.0, timm) == 2
    assert fitting_epochs(1, 100.0, 1, 20.0, timm) == 1  # there is no less


@pytest.mark.parametrize("name", FINE_TUNING)
def test_a_command_has_the_seed_the_size_and_the_length(job: Job, name: str) -> None:
    words = PEERS[name].command(job)
    assert all(isinstance(word, str) for word in words) and words[0] == "python"
    text = " ".join(words)
    assert "seed 7" in text and "/images" in text and "/checkpoint" in text
    assert ("--time_budget 30s" if name == OURS else "epochs 3") in text


def test_the_image_processor_of_the_weights_has_the_size(data: Path, tmp_path: Path) -> None:
    copy = checkpoint_of_size(data / "hub/models/timm/tf_efficientnet_lite0.in1k", 96, tmp_path / "copy")
    assert json.loads((copy / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 96, 96]


def test_what_is_done_is_not_done_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "accuracy.jsonl"
    options = parse(["--data", str(data), "--results", str(results), "--scripts", str(tmp_path)])
    timed: list[tuple[Any, ...]] = []

    def run(self: Bench, peer: str, images: int, epochs: float, minutes: float, seed: int) -> tuple[float, float]:
        timed.append((peer, images, epochs))
        return 20 + 0.04 * images * epochs, 0.5

    monkeypatch.setattr(Bench, "_timed", run)
    for number in range(2):
        bench = Bench(options, tmp_path / f"work-{number}")
        bench.run("timm train.py", 500, 1, 1)
        bench.run("timm train.py", 500, 0.1, 1)  # no time for anything
    assert timed == [("timm train.py", 100, 1), ("timm train.py", 300, 1), ("timm train.py", 500, 2)]
    assert [line.get("accuracy") for line in bench.results.lines] == [None, 0.5, None]
    assert bench.results.lines[0] == {"trial": "timm train.py", **TRIAL} and bench.results.lines[1]["seconds"] == 60


def test_the_table_has_median_interval_seconds_and_epochs() -> None:
    options = argparse.Namespace(minutes=[1.0, 2.0], images=[500], peers=["hf-finetune", "timm train.py"])
    run = {"images": 500, "minutes": 1.0, "epochs": 0, "shown": 500, "seconds": 61.2}
    ours = [{**run, "peer": "hf-finetune", "seed": seed, "accuracy": 0.7 + seed / 100} for seed in (1, 2, 3)]
    timm = {**run, "peer": "timm train.py", "seed": 1, "accuracy": 0.3, "epochs": 1, "shown": 250, "minutes": 2.0}
    late = {**timm, "minutes": 1.0, "accuracy": None}
    assert markdown([*ours, timm, late], options).splitlines() == [
        "| Training images | Program | 1 min | 2 min | Settings |",
        "| --- | --- | --- | --- | --- |",
        "| 500 | hf-finetune | 72.0 % (70.0 % to 73.9 %), 61 s |  | its defaults |",
        "| 500 | timm train.py | no time for it | 30.0 % (28.0 % to 32.0 %), 61 s, 1 epoch of 250 of them |"
        " SGD 0.01, batch 32, no warm-up |",
    ]
