"""Mistakes in recipes, flags, values and output folders, each answered with one line, through the command line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForImageClassification

from hf_finetune.cli.main import main
from tests.helpers.mistakes import refuse
from tests.helpers.tiny import write_recipe

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--recipe", "resnet50_cifar"),
            'recipe "resnet50_cifar" is neither a file nor a packaged recipe. Did you mean',
        ),
        (("--recipe", "mine.yaml"), 'Did you mean "tiny.yaml"? To list the packaged ones: hf-finetune recipes'),
        (("--recipe", "cifar10"), "cifar10 is a dataset; use --dataset cifar10, which picks its recipe"),
        (("--recipe", "."), ". is a folder; use a YAML file, or --dataset ."),
        (("--recipe",), "argument --recipe: expected one argument; its use is shown by: hf-finetune train --help"),
        (("--learning_rat", "0.1"), 'There is no flag "--learning_rat". Did you mean "--learning_rate"?'),
        (("--learning_rat=0.1",), 'There is no flag "--learning_rat". Did you mean "--learning_rate"?'),
        (("--recip", "x"), 'Did you mean "--recipe"?'),
        (("--lr", "0.1"), 'There is no flag "--lr"; use --learning_rate.'),
        (("--batch_size", "8"), 'There is no flag "--batch_size"; use --global_batch_size.'),
        (("--epochs", "5"), 'There is no flag "--epochs"; use --num_train_epochs.'),
        (("--resume",), 'There is no flag "--resume"; the same command resumes an interrupted run by itself.'),
        (("--patience", "3"), 'There is no flag "--patience"; use --early_stopping_patience.'),
        (("--do_train",), "There is no flag --do_train here: training and the final evaluation are always done"),
        (("--resume_from_checkpoint", "x"), "the same command resumes an interrupted run by itself"),
        (("--auto_find_batch_size",), "it would change global_batch_size"),
        (("cifar10",), '"cifar10" belongs to no flag; use --dataset cifar10 if it is your dataset'),
    ],
)
def test_unknown_recipes_and_flags(refused: Refused, words: tuple[str, ...], message: str):
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 0.1\n\tmomentum: 0.9\n", "own.yaml, line 2: this is not valid YAML: found character '\\t'"),
        ("seed: 1\nlearning_rat: 1\n", 'own.yaml, line 2: unknown key "learning_rat". Did you mean "learning_rate"?'),
        ("epochs: 1\n", 'own.yaml, line 1: there is no key "epochs"; use num_train_epochs.'),
        ("- seed\n", "own.yaml holds a list; a recipe is a mapping"),
        ("", "own.yaml is empty; use lines such as learning_rate: 0.01"),
        ("_base_: nope\n", 'own.yaml: base "nope" is neither a file nor a packaged recipe'),
        ("_base_: own.yaml\n", "its bases go in a circle"),
        ("learning_rate: fast\n", "learning_rate: 'fast' is not a number, in own.yaml; use one, such as 0.01"),
        ("learning_rate: [1, 2]\n", "learning_rate: [1, 2] does not fit, in own.yaml; use a number"),
        ("seed: 1\nseed: 2\n", 'the key "seed" stands twice, first in line 1'),
    ],
)
def test_a_recipe_that_cannot_be_read(refused: Refused, tmp_path: Path, text: str, message: str):
    (tmp_path / "own.yaml").write_text(text)
    assert message in refused("--recipe", "own.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # no number, no word, no choice
        (
            ("--learning_rate", "fast"),
            "learning_rate: 'fast' is not a number, in --learning_rate; use one, such as 0.01",
        ),
        (("--learning_rate", "nan"), "learning_rate: 'nan' is not a number"),
        (("--learning_rate",), "argument --learning_rate: expected one argument"),
        (("--num_train_epochs", "ten"), "num_train_epochs: 'ten' is not a number"),
        (("--num_train_epochs", ".inf"), "num_train_epochs: inf is not a number"),
        (("--global_batch_size", "12.5"), "global_batch_size: 12.5 is not a whole number"),
        (("--use_cpu", "maybe"), "use_cpu: 'maybe' is neither true nor false"),
        (("--lr_scheduler_type", "cosin"), 'lr_scheduler_type is "cosin". Did you mean "cosine"?'),
        (("--optim", "adam"), 'optim is "adam". Did you mean "adamw_torch"?'),
        (("--eval_strategy", "epochs"), 'Did you mean "epoch"? Use one of no, steps, epoch.'),
        (("--metric_for_best_model", "acuracy"), 'Did you mean "accuracy"? Use one of accuracy, macro_f1'),
        (("--report_to", "tensorbord"), "report_to: tensorbord is unknown or not installed"),
        # out of range
        (("--learning_rate", "-1"), "learning_rate is -1; use a number of at least 0"),
        (("--num_train_epochs", "-1"), "num_train_epochs is -1; use a number above 0"),
        (("--max_steps", "0"), "max_steps is 0; use a number of at least 1, or null for whole epochs"),
        (("--momentum", "2"), "momentum is 2; use a number from 0 to 1"),
        (("--seed", "-1"), "seed is -1; use a number from 0 to 4294967295"),
        (("--ddp_timeout", "86400000000000"), "ddp_timeout is 86400000000000; use a number from 1 to 31536000"),
        (("--per_device_eval_batch_size", "0"), "per_device_eval_batch_size is 0; use a number of at least 1"),
        (("--lr_milestones", "-1"), "lr_milestones is [-1]; use epochs above 0, such as [15]"),
        # a batch that does not divide
        (("--global_batch_size", "0"), "global_batch_size is 0; use a number of at least 1"),
        (("--per_device_train_batch_size", "5"), "global_batch_size 16 does not divide into 1 device(s) x 5 images"),
        (("--gradient_accumulation_steps", "3"), "use --global_batch_size 15 or another per-device size"),
        # images
        (("--image_mean", "0.5", "0.5", "0.5"), "looks like a scale of 0 to 1; use it in pixel units, 0 to 255"),
        (("--image_mean", "100", "100"), "image_mean has 2 figures; use one for each of the 3 channels"),
        (("--image_std", "50", "0", "50"), "image_std is [50, 0, 50]; use figures above 0 up to 255"),
        (("--image_size", "0"), "image_size is 0; use the side in pixels, such as 224"),
        (("--crop_pct", "2"), "crop_pct is 2; use a number above 0 and at most 1, such as 0.875"),
        (("--resample", "bicubik"), 'resample is "bicubik". Did you mean "bicubic"?'),
        (
            ("--train_transforms", "[RandomCropp]"),
            "is not an image transform of torchvision.transforms.v2. Did you mean",
        ),
        (
            ("--train_transforms", "[{RandomCrop: {sizes: 8}}]"),
            'RandomCrop has no argument "sizes". Did you mean "size"?',
        ),
        (("--train_transforms", "[{RandomCrop: 8}]"), "the arguments of RandomCrop are a mapping"),
        (("--train_transforms", "[Resize: 8}"), "--train_transforms: this is not valid YAML"),
        (("--train_transforms", "[{RandomCrop: {size: 32}}]"), "RandomCrop of 32 x 32 from 16 x 16 pixels; check"),
        # settings that contradict each other, or this machine
        (("--save_strategy", "steps"), "eval_strategy is epoch and save_strategy is steps, but only a checkpoint that"),
        (("--eval_strategy", "no"), "use --load_best_model_at_end false"),
        (("--lr_scheduler_type", "cosine_with_min_lr"), "use what it needs as --lr_scheduler_kwargs"),
        (("--optim_args", "momentum=0.5"), "optim_args is not read where optim is sgd; use --momentum"),
        (("--optim", "adamw_torch", "--adam_beta1", "2"), "optim adamw_torch cannot be used: Invalid beta parameter"),
        (("--nesterov", "--momentum", "0"), "nesterov needs a momentum, which is 0; use --momentum 0.9"),
        (
            ("--warmup_steps", "5", "--warmup_epochs", "2"),
            "warmup_steps is 5 and warmup_epochs is 2; use one of them.",
        ),
        (
            ("--warmup_epochs", "1", "--warmup_multiplies"),
            "where the warm-up begins; use --warmup_start_factor 0.001",
        ),
        (("--warmup_type", "linaer"), 'warmup_type is "linaer". Did you mean "linear"? Use one of'),
        (("--warmup_type", "constant"), "warmup_type needs to know where the warm-up begins; use"),
        (("--warmup_between_epochs",), "warmup_between_epochs needs to know where the warm-up begins; use"),
        (("--lr_reaches_end",), "lr_reaches_end has no meaning for multistep; its lr_milestones say"),
        (("--lr_decay_epochs", "3"), "lr_decay_epochs has no meaning for multistep; its lr_milestones say"),
        (("--warmup_start_factor", "2"), "warmup_start_factor is 2; use a number from 0 to 1."),
        (
            ("--lr_by_epoch", "--lr_scheduler_type", "reduce_lr_on_plateau"),
            "lr_scheduler_type reduce_lr_on_plateau cannot be used: it is no function of the step",
        ),
        (("--dataloader_persistent_workers",), "needs workers; use --dataloader_num_workers 2 or more"),
        (("--gradient_checkpointing",), "ResNetForImageClassification does not support gradient_checkpointing"),
        (("--dataloader_drop_last", "--global_batch_size", "500"), "leaves none of the 65 training images"),
        (("--fp16",), "fp16 needs a GPU, and this run is on the CPU; use --precision bf16"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_values_that_cannot_be(refused: Refused, words: tuple[str, ...], message: str):
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("trian", "--dataset", "digits"),
            'there is no command "trian". Did you mean "train"? The commands are train, ',
        ),
        (("train",), "There is nothing to train on; use --dataset cifar10 or --recipe resnet50_cifar10"),
        (("recipes", "show"), "There is no recipe; use hf-finetune recipes show NAME_OR_PATH."),
        (("recipes", "shwo", "digits"), '"shwo" is not what recipes does; use hf-finetune recipes show NAME_OR_PATH'),
        (("recipes", "show", "lenet5"), 'recipe "lenet5" is neither a file nor a packaged recipe. Did you mean'),
        (("recipes", "show", "digits", "--lerning_rate", "1"), 'Did you mean "--learning_rate"?'),
    ],
)
def test_other_verbs(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str):
    assert message in refuse(capsys, *words)


# ---- the output folder ----


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run_words(image_folder: Path, tmp_path: Path) -> list[str]:
    recipe = str(write_recipe(tmp_path, num_train_epochs=1))
    return ["train", "--recipe", recipe, "--dataset", str(image_folder), "--output_dir", str(tmp_path / "output")]


@pytest.fixture
def output(finished_run: Path, run_words: list[str], tmp_path: Path) -> Path:
    """A finished run in the folder that `run_words` name, beside files that are nobody's run."""
    shutil.copytree(finished_run, tmp_path / "output")
    (tmp_path / "output/notes.txt").write_text("mine")
    (tmp_path / "output/checkpoint-notes").mkdir()
    (tmp_path / "output/checkpoint-notes/notes.txt").write_text("mine")
    return tmp_path / "output"


def test_the_results_of_a_finished_run_stay(capsys, run_words, output):
    before = snapshot(output)
    assert "holds the results of a finished run; use another --output_dir, or" in refuse(capsys, *run_words)
    assert snapshot(output) == before


def test_an_unfinished_run_of_another_recipe_stays(capsys, run_words, output):
    (output / "metrics.json").unlink()
    before = snapshot(output)
    line = refuse(capsys, *run_words, "--learning_rate", "0.5")
    assert "holds an unfinished run with" in line and "--overwrite_output_dir to start anew" in line
    assert snapshot(output) == before


@pytest.mark.parametrize("overwrite", [(), ("--overwrite_output_dir",)])
def test_a_folder_of_other_files_stays(capsys, run_words, tmp_path, overwrite):
    """Even a recipe.yaml of the user's own does not make it a run."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output/thesis.txt").write_text("mine")
    (tmp_path / "output/recipe.yaml").write_text("_base_: digits\n")
    before = snapshot(tmp_path)
    line = refuse(capsys, *run_words, *overwrite)
    assert "output is not empty and holds no run of this package, so nothing is written or deleted there" in line
    assert snapshot(tmp_path) == before


def test_overwriting_removes_a_runs_own_things_only_and_not_before_the_mistakes_are_found(capsys, run_words, output):
    before = snapshot(output)
    line = refuse(capsys, *run_words, "--overwrite_output_dir", "--train_transforms", "[{RandomCrop: {size: 32}}]")
    assert "RandomCrop of 32 x 32" in line and snapshot(output) == before
    assert main([*run_words, "--overwrite_output_dir"]) == 0
    assert (output / "notes.txt").read_text() == (output / "checkpoint-notes/notes.txt").read_text() == "mine"
    steps = {int(path.name.removeprefix("checkpoint-")) for path in output.glob("checkpoint-*[0-9]")}
    assert steps == {5}  # one epoch; the finished run had three
    assert yaml.safe_load((output / "recipe.yaml").read_text())["num_train_epochs"] == 1


@pytest.mark.parametrize("name", ["tiny.yaml", "tiny.yaml/below"])
def test_a_file_where_the_folder_should_be(refused: Refused, name: str):
    line = refused("--output_dir", name)
    assert "tiny.yaml is a file; use a folder" in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(refused: Refused, tmp_path: Path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "there is no permission to write in" in refused("--output_dir", "locked/output")


# ---- a broken loss ----


def test_a_broken_loss_stops_names_the_step_and_keeps_the_good_checkpoint(capsys, run_words, tmp_path, monkeypatch):
    """The rate explodes in the second epoch of six steps; the checkpoint of the first one is whole and stays."""
    words = [*run_words, "--num_train_epochs", "3", "--lr_milestones", "1", "--lr_gamma", "1e30"]
    line = refuse(capsys, *words)
    kept = tmp_path / "output/checkpoint-5"
    assert "The loss is not finite at step " in line and "use a lower --learning_rate" in line
    assert 5 < int(line.split("at step ")[1].split()[0]) <= 10
    assert f"Last good checkpoint: {kept}. Images of that step: train/" in line
    assert [path.name for path in tmp_path.glob("output/checkpoint-*")] == ["checkpoint-5"]
    weights = AutoModelForImageClassification.from_pretrained(kept).state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not (tmp_path / "output/metrics.json").exists()


def test_after_a_run_that_saved_nothing_the_mended_command_runs_in_the_same_folder(capsys, run_words, tmp_path):
    line = refuse(capsys, *run_words, "--learning_rate", "1e30")
    assert "Last good checkpoint: none was saved yet. Images of that step: train/" in line
    assert main(run_words) == 0
    assert json.loads((tmp_path / "output/metrics.json").read_text())["metrics"]["test_samples"] == 24
