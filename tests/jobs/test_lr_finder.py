"""The search for a learning rate: what it suggests, where it ends, and what it leaves behind."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_finetune.cli.main import main
from hf_finetune.jobs.lr_finder import search, suggest
from tests.helpers.networks import make_model
from tests.helpers.tiny import write_recipe
from tests.helpers.trainers import make_trainer

RATES = np.geomspace(1e-6, 10, 100).tolist()


def test_the_middle_of_the_longest_fall_is_suggested() -> None:
    losses = [2.0 - 1e-4 * step for step in range(50)]  # flat, then down, then up
    losses += [1.99 - 0.09 * step for step in range(20)] + [0.3 + 0.1 * step for step in range(30)]
    found = suggest(RATES, losses)
    assert found is not None and RATES[58] < found < RATES[62]
    assert suggest(RATES, [2.0 + 0.01 * math.sin(step) for step in range(100)]) is None
    assert suggest([], []) is None


@pytest.mark.slow
def test_the_search_ends_where_the_loss_diverges_and_groups_keep_their_ratio(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_model("resnet"), head_lr_multiplier=10.0, momentum=0.9)
    rates = np.geomspace(1e-3, 1e7, 60).tolist()
    found = search(trainer, rates)
    assert 10 < len(found.rates) < 60 and all(map(math.isfinite, found.losses))
    assert found.smoothed[0] == pytest.approx(found.losses[0])
    low, high = (group["lr"] for group in trainer.optimizer.param_groups[:1] + trainer.optimizer.param_groups[-1:])
    assert high / low == pytest.approx(10)


@pytest.mark.slow
@pytest.mark.usefixtures("drawn_plots")
def test_the_command_draws_and_suggests_and_keeps_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["lr-finder", "--recipe", str(write_recipe(tmp_path)), "--dataset", str(image_folder), "--steps", "40"]
    before = set(tmp_path.iterdir())
    for name in ("lr_finder.png", "lr_finder-2.png"):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert f"The plot is {name}." in out and "uggested" in out
        assert PIL.Image.open(name).size[0] > 500
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"lr_finder.png", "lr_finder-2.png"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--steps", "5"), "--steps 10 or more"),
        (("--lowest", "2", "--highest", "1"), "use a --highest above --lowest"),
        (("--output", "plot.jpg"), "use the name of a file that ends in .png"),
    ],
)
def test_mistakes_are_one_line(flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lr-finder", "--dataset", "digits", *flags]) == 2
    told = capsys.readouterr()
    assert message in (told.out + told.err).strip().splitlines()[-1]
