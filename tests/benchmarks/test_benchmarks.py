"""The measurements run on tiny generated images, stock gets what ours gets, and the tables keep what they should."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.harness import Answer, Ratio, Row, Session, alternate, compare_seconds, datasets_cache, seconds
from benchmarks.images import CIFAR10_MEAN, CIFAR10_STD, hub_copy
from benchmarks.long_run import gained, plot, slope
from benchmarks.long_run_child import Holding, look
from benchmarks.memory import write_table
from benchmarks.ours import TINY_RESNET, prepare_ours, source_rows
from benchmarks.report import OtherMachine, cells, describe_machine, format_table, merge_results
from benchmarks.stock import Schedule, load_stock_dataset, set_stock_transform, stock_trainer, twin
from tests.helpers.launched import preload

# Left out here, because they start processes that import everything anew, five seconds each.
SLOW = {"answers", "start", "memory", "processes", "long_run"}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    preload()
    session = Session(tmp_path_factory.mktemp("benchmarks"), pairs=1, quick=True, cpu=True)
    with datasets_cache(session):
        yield session


@pytest.mark.parametrize("name", command.MODULES)
def test_every_question_has_an_answer(name, session):
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.__doc__.endswith(".")
    if name in SLOW:
        return
    answer = module.measure(session)
    assert answer.rows or answer.notes[0].startswith("Skipped")
    for row in answer.rows:
        assert row.to_stock.pairs and " | " not in row.question
        assert (row.to_limit is not None) == name.startswith("train_")


def test_both_sides_give_the_network_the_same_images_and_weights(session):
    path = hub_copy(session, "cifar10")
    schedule = Schedule(16, max_steps=1)
    prepared = prepare_ours(
        session,
        schedule,
        dataset="cifar10",
        dataset_path=str(path),
        model_type="resnet",
        model_config=TINY_RESNET,
        max_train_samples=16,
        image_size=32,
        image_mean=CIFAR10_MEAN,
        image_std=CIFAR10_STD,
        train_transforms=[],
    )
    dataset = load_stock_dataset(path)["train"].select(source_rows(prepared, "train"))
    theirs = stock_trainer(
        session, twin(prepared.trainer.model), schedule, set_stock_transform(dataset, [], CIFAR10_MEAN, CIFAR10_STD)
    )
    batches = [
        trainer._prepare_inputs(next(iter(trainer.get_train_dataloader()))) for trainer in (prepared.trainer, theirs)
    ]
    order = [batch["labels"].argsort(stable=True) for batch in batches]
    assert torch.equal(batches[0]["labels"][order[0]], batches[1]["labels"][order[1]])
    sums = [batch["pixel_values"].double().sum(dim=(1, 2, 3)).sort().values for batch in batches]
    torch.testing.assert_close(*sums, atol=1e-2, rtol=0)
    for ours, stock in zip(prepared.trainer.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(ours, stock) and ours.data_ptr() != stock.data_ptr()
    for trainer in (prepared.trainer, theirs):
        trainer.create_optimizer()
    (ours, stock) = (trainer.optimizer.param_groups[0] for trainer in (prepared.trainer, theirs))
    for name in ("lr", "momentum", "weight_decay", "nesterov", "dampening"):
        assert ours[name] == stock[name], name
    assert prepared.trainer.args.max_grad_norm == theirs.args.max_grad_norm == 0


def test_sides_alternate_and_turn_round():
    calls = []
    sides = {name: lambda name=name: calls.append(name) or 1.0 for name in ("ours", "stock", "limit")}
    assert alternate(sides, 2) == {"ours": [1.0, 1.0], "stock": [1.0, 1.0], "limit": [1.0, 1.0]}
    assert calls == ["ours", "stock", "limit", "limit", "stock", "ours"]


def test_ratios_are_of_pairs_and_their_median_decides():
    samples = {"ours": [1.0, 2.0, 4.0], "stock": [3.0, 4.0, 20.0], "limit": [0.9, 2.0, 3.0]}
    row = compare_seconds("question", samples, seconds, stock=2.5, limit=0.95)
    assert row.to_stock.pairs == [3, 2, 5] and row.to_stock.median == 3 and row.to_stock.met
    assert str(row.to_stock) == "3 (2 to 5)"
    assert row.to_limit.median == 0.9 and not row.to_limit.met and not row.met
    assert (row.ours, row.stock, row.limit) == ("2.00 s", "4.00 s", "2.00 s")
    never = compare_seconds("question", {"ours": [float("inf")], "stock": [1.0]}, seconds, stock=3)
    assert never.ours == "not reached" and not never.met
    assert Ratio([9.0], 10, at_least=False).met and not Ratio([11.0], 10, at_least=False).met
    assert Ratio([-0.2], -0.3, unit=" points").met and not Ratio([-0.4], -0.3, unit=" points").met


def make_answer(ours: str) -> Answer:
    return Answer([Row("how fast", ours, "2 s", Ratio([2.0], 1))], [f"ours took {ours}"])


def test_a_module_replaces_its_own_rows_only(tmp_path):
    path, order = tmp_path / "RESULTS.md", ("first", "second", "third")
    merge_results(path, {"third": make_answer("3 s"), "first": make_answer("1 s")}, order, "Machine: one.")
    merge_results(
        path, {"second": make_answer("a very long time"), "first": make_answer("5 s")}, order, "Machine: one."
    )
    lines = path.read_text().splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["first", "second", "third"]
    assert len({len(line) for line in table}) == 1
    assert "5 s" in table[2] and "1 s" not in path.read_text()
    assert [line for line in lines if line.startswith("- ")] == [
        "- `first`: ours took 5 s", "- `second`: ours took a very long time", "- `third`: ours took 3 s",
    ]  # fmt: skip
    assert "Machine: one." in lines


def test_figures_of_two_machines_are_not_mixed(tmp_path):
    path = tmp_path / "RESULTS.md"
    merge_results(path, {"first": make_answer("1 s")}, ("first", "second"), "Machine: one.")
    before = path.read_text()
    with pytest.raises(OtherMachine):
        merge_results(path, {"second": make_answer("1 s")}, ("first", "second"), "Machine: two.")
    assert path.read_text() == before
    merge_results(path, {"first": make_answer("9 s")}, ("first", "second"), "Machine: two.")  # nothing else stays
    assert "Machine: two." in path.read_text() and "Machine: one." not in path.read_text()


def test_the_table_says_what_fell_short():
    table = format_table([cells("first", Row("how fast", "1 s", "2 s", Ratio([2.0], 3)))])
    assert table.splitlines()[2].split("|")[-2].strip() == "short"


def test_the_machine_is_described_without_names(monkeypatch):
    monkeypatch.setattr("platform.node", lambda: pytest.fail("the computer's name is nobody's business"))
    description = describe_machine(cpu=True)
    assert "torch 2." in description and "no GPU" in description and "\n" not in description


def test_the_table_of_many_rows_is_read_as_images(session):
    import datasets

    dataset = datasets.Dataset.from_parquet(str(write_table(session, 300)))
    assert len(dataset) == 300 and dataset[299]["image"].size == (8, 8)
    assert isinstance(dataset.features["label"], datasets.ClassLabel)


def make_holding(step: int, megabytes: float, files: int) -> Holding:
    return Holding(step, megabytes, megabytes, files, threads=2, processes=1, segments=0)


def test_growth_over_a_long_run_is_found():
    flat = [make_holding(step, 500 + step % 200 / 100, 9) for step in range(50, 10_000, 100)]
    assert abs(slope(flat)) < 0.01 and gained(flat) == 0
    leaking = [make_holding(step, 500 + step / 500, 9 + step // 1000) for step in range(50, 10_000, 100)]
    assert slope(leaking) == pytest.approx(2) and gained(leaking) == 9
    lines = plot({"ours": flat, "stock": leaking}).axes[0].lines
    assert [line.get_label() for line in lines] == ["ours", "stock"] and len(lines[0].get_xdata()) == 100


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell")
def test_what_a_process_holds_is_counted_with_its_children(tmp_path):
    before = look(1)
    kept = b"x" * 2**25  # 32 MiB
    with open(tmp_path / "file", "w"), subprocess.Popen(["sleep", "9"]) as child:
        after = look(2)
        child.kill()
    assert 25 < after.anonymous_megabytes - before.anonymous_megabytes < 45 and kept
    assert after.processes == before.processes + 1 and after.files > before.files
    assert after.resident_megabytes > after.anonymous_megabytes


def test_the_command_runs_what_is_named_and_refuses_the_rest(tmp_path, capsys):
    assert command.main(["help", "--quick", "--pairs", "1", "--cpu", "--results", str(tmp_path / "R.md")]) == 0
    printed = capsys.readouterr().out
    assert "hf-finetune --help" in printed and "python -c pass" in (tmp_path / "R.md").read_text()
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(command.MODULES)
    for words in (["helb"], ["--pairs", "0"], ["--data", str(tmp_path / "nothing")]):
        with pytest.raises(SystemExit):
            command.main(words)
    assert Path(command.RESULTS).name == "RESULTS.md"
