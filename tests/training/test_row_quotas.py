"""Rows in proportion to a weight of their own, and a run that draws its images so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file

from hf_finetune import finetune
from hf_finetune.config.arguments import build_arguments, check_values
from hf_finetune.config.recipe import Recipe, override
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.training.balance import describe_row_times, row_quotas
from hf_finetune.training.row_quotas import RowQuotas
from hf_finetune.training.sampling import EpochSampler
from tests.helpers.interrupting import StopAfterAStep
from tests.helpers.tiny import write_recipe

WEIGHTS = np.concatenate([np.zeros(3), np.random.default_rng(0).pareto(1, 200), [0.0, 900.0]])


def test_each_epoch_shows_a_row_its_share_rounded_down_or_up_and_a_run_evens_that_out() -> None:
    quotas, seen = RowQuotas(WEIGHTS, seed=5), np.zeros(len(WEIGHTS))
    share = WEIGHTS / WEIGHTS.sum() * len(WEIGHTS)
    np.testing.assert_allclose(quotas.row_times(), share)
    for epoch in range(100):
        rows = quotas.rows(epoch)
        assert len(set(rows.tolist())) == quotas.count == len(WEIGHTS)  # a repetition is a number of its own
        times = np.bincount(rows % len(WEIGHTS), minlength=len(WEIGHTS))
        assert np.abs(times - share).max() < 1 and not times[WEIGHTS == 0].any()
        seen += times
    assert np.abs(seen - 100 * share).max() < 2.5


def test_equal_weights_show_each_row_once() -> None:
    for epoch in range(5):
        assert sorted(RowQuotas(np.full(53, 0.1), seed=epoch).rows(epoch)) == list(range(53))


def test_the_rows_depend_on_seed_and_epoch_alone_and_not_on_the_number_of_processes() -> None:
    quotas = RowQuotas(WEIGHTS, seed=5)
    later = quotas.rows(7).tolist()
    assert RowQuotas(WEIGHTS, seed=5).rows(7).tolist() == later != quotas.rows(6).tolist()
    assert sorted(RowQuotas(WEIGHTS, seed=6).rows(7)) != sorted(later)
    orders = [EpochSampler(len(WEIGHTS), 5, multiple, quotas) for multiple in (1, 64)]
    for order in orders:
        order.set_epoch(7)
    assert sorted(orders[0]) == sorted(later) and list(orders[1])[: len(WEIGHTS)] == list(orders[0])


def test_one_line_says_how_often_images_are_shown() -> None:
    line = describe_row_times(np.array([0.5, 0.0, 2.5]))
    expected = "an epoch shows an image from 0.5 to 2.5 times; 1 of 3 have the weight 0 and are never shown."
    assert line == f"Sampling, weighted by weight_column: {expected}"
    with pytest.raises(UserError, match="^weight_column: all training images have the weight 0, which leaves nothing"):
        row_quotas(np.zeros(3), 0)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"sampling": "weighted"}, "to a column of weights, or to those of the classes; use --weight_column NAME or"),
        ({"weight_column": "w"}, "weight_column w says how often images are drawn, and sampling is random; use --sam"),
        ({"weight_column": "w", "sampling": "weighted", "class_weights": "balanced"}, "and both are set; leave one"),
        ({"weight_column": "w", "sampling": "weighted", "streaming": True}, "weight_column is read before training"),
        ({"weight_column": "w", "sampling": "weighted", "logit_adjustment": 1.0}, "logit_adjustment and sampling wei"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], line: str) -> None:
    recipe = override(Recipe("none", {}, {}), {"output_dir": "unused", **settings})
    for check in (check_values, build_arguments):
        with pytest.raises(UserError) as refused:
            check(recipe)
        assert line in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_run_leaves_out_images_of_weight_0_resumes_and_notices_other_weights(
    tmp_path: Path, datasets_cache: Path, logged: list[str]
) -> None:
    rows = []
    for number in range(48):
        color = [40, 40, 40]
        color[number % 2] = 200
        PIL.Image.new("RGB", (16, 16), tuple(color)).save(tmp_path / f"{number}.png")
        is_wrong = number % 3 == 0 and number < 36  # such a label is drawn never
        label = "ab"[(number + is_wrong) % 2]
        rows.append({"image": f"{number}.png", "label": label, "w": 0 if is_wrong else 1 + number % 5})
        rows[-1]["split"] = "train" if number < 36 else "test"

    def write(rows: list[dict[str, object]]) -> None:
        (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def run(name: str, *callbacks: StopAfterAStep) -> Path:
        result = finetune(recipe, dataset=str(tmp_path / "data.jsonl"), output_dir=tmp_path / name, callbacks=callbacks)
        assert result.metrics["test_accuracy"] == 1
        return tmp_path / name / "model.safetensors"

    write(rows)
    recipe = write_recipe(
        tmp_path, sampling="weighted", weight_column="w", validation_fraction=0, head_init="probe",
        num_train_epochs=4, lr_milestones=[3],
    )  # fmt: skip
    whole = load_file(run("whole"))
    assert any(line.endswith("12 of 36 have the weight 0 and are never shown.") for line in logged)
    with pytest.raises(Interrupted):
        run("resumed", StopAfterAStep())
    write([{**row, "w": 1} for row in rows])
    with pytest.raises(UserError, match=r"train have other weights, the first is 0\.png; restore them"):
        run("resumed")
    write(rows)
    for name, tensor in load_file(run("resumed")).items():
        assert np.array_equal(tensor, whole[name]), name
