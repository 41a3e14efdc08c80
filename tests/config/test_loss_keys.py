"""The checks of the loss and its settings, and a loss by its dotted name, which only the user may give."""

from __future__ import annotations

import shutil

import pytest

from hf_finetune import evaluate, finetune, predict
from hf_finetune.cli.flags import OneLineParser, add_argument_flags, flag_values
from hf_finetune.config.arguments import coerce
from hf_finetune.config.loss_keys import is_own_loss
from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError
from tests.helpers.tiny import write_recipe


def arguments(**settings: object) -> FinetuneArguments:
    return FinetuneArguments(output_dir="unused", use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "focl"}, 'loss is "focl". Did you mean "focal"?'),
        ({"loss": "a..b"}, 'loss is "a..b".'),
        ({"loss_args": {"gamma": 2}}, 'loss_args: cross_entropy has no setting "gamma". It has none; leave loss_args'),
        ({"loss": "focal", "loss_args": {"gama": 2}}, 'focal has no setting "gama". Did you mean "gamma"?'),
        ({"loss": "focal", "loss_args": {"gamma": -1}}, "gamma of focal is -1; use a number of at least 0."),
        ({"loss": "focal", "loss_args": {"gamma": float("nan")}}, "gamma of focal is nan; use a number"),
        ({"loss": "focal", "loss_args": {"alpha": 2}}, "alpha of focal is 2; use a number from 0 to 1."),
        ({"loss": "asymmetric", "loss_args": {"clip": True}}, "clip of asymmetric is True; use a number"),
        (
            {"class_weights": "balance"},
            'class_weights is "balance". Did you mean "balanced"? Use balanced, eff',
        ),
        ({"class_weights": {"red": -1}}, "class_weights: the weight of red is -1; use a number of at least 0."),
        ({"class_weights": {"red": "much"}}, "class_weights: the weight of red is 'much'; use a number"),
        ({"class_weights": [1, float("inf")]}, "class_weights: the weight number 2 is inf; use a number"),
        ({"class_weights": [0, 0]}, "class_weights is [0, 0], which leaves nothing to learn; use a weight above 0."),
        ({"class_weights": []}, "class_weights is [], which leaves nothing to learn"),
        ({"sampling": "balance"}, 'sampling is "balance". Did you mean "balanced"?'),
        ({"sampling": "sqrt", "class_weights": "balanced"}, "sampling sqrt and class_weights balanced both even out"),
        (
            {"sampling": "sqrt", "train_sampling_strategy": "sequential"},
            "sampling sqrt draws images, and train_sampling_strategy is sequential; leave one out.",
        ),
        ({"repeated_augmentation": 0}, "repeated_augmentation is 0; use a number of at least 1, such as 3."),
        ({"repeated_augmentation": 500}, "repeated_augmentation is 500, and a step has global_batch_size 128; use a"),
        ({"repeated_augmentation": 3, "sampling": "sqrt"}, "repeated_augmentation and sampling sqrt both choose the i"),
        (
            {"repeated_augmentation": 3, "train_sampling_strategy": "sequential"},
            "repeated_augmentation and train_sampling_strategy sequential both choose the images of an epoch; leave",
        ),
        ({"logit_adjustment": -1}, "logit_adjustment is -1; use a number of at least 0."),
        ({"logit_adjustment": 1, "loss": "focal"}, "logit_adjustment is for the loss cross_entropy, and loss is focal"),
        ({"logit_adjustment": 1, "sampling": "sqrt"}, "logit_adjustment and sampling sqrt both even out the classes"),
        ({"logit_adjustment": 1, "class_weights": "balanced"}, "logit_adjustment and class_weights balanced both even"),
        ({"loss": "my.own", "label_smoothing_factor": 0.1}, "label_smoothing_factor is not read with a loss of your"),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(UserError) as refused:
        arguments(**settings)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_which_names_are_a_loss_of_ones_own():
    assert is_own_loss("my_losses.poly") and is_own_loss("torch.nn.CrossEntropyLoss")
    assert not any(map(is_own_loss, ["focal", "focl", "", ".poly", "a.", "a b.c", "os;x.y", "../x"]))
    assert arguments(loss="focal", loss_args={"gamma": 1.5}).loss_args == {"gamma": 1.5}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["balanced"], "balanced"),
        (["1", "2.5"], [1, 2.5]),
        (["[1, 2.5]"], [1, 2.5]),
        (["{red: 5}"], {"red": 5}),
        (["null"], None),
    ],
)
def test_class_weights_on_the_command_line(words, value):
    parser = OneLineParser("hf-finetune train")
    add_argument_flags(parser)
    flags = flag_values(parser.parse_args(["--class_weights", *words]))
    assert coerce("class_weights", flags["class_weights"], "--class_weights") == value


def test_a_file_never_names_code_that_is_run(tmp_path, monkeypatch):
    """A recipe comes from anywhere, as from the repository of a checkpoint."""
    (tmp_path / "planted.py").write_text("open('ran', 'w')\n")
    (tmp_path / "theirs.yaml").write_text("dataset: digits\nloss: planted.loss\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for recipe in ("theirs.yaml", {"_base_": "theirs.yaml"}):
        with pytest.raises(UserError, match=r"loss is planted.loss, in .*theirs.*a file runs no code; .* use loss="):
            finetune(recipe, output_dir="out")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_recipe_beside_a_model_never_names_code_that_is_run(finished_run, image_folder, tmp_path, monkeypatch):
    model = shutil.copytree(finished_run, tmp_path / "model")
    (model / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (model / "recipe.yaml").write_text("dataset: digits\nloss: planted.loss\nloss_args: {scale: 1}\n")
    monkeypatch.chdir(model)
    monkeypatch.syspath_prepend(str(model))
    evaluate(model, dataset=image_folder)
    predict(model, [image_folder / "test" / "red" / "00.png"])
    recipe = write_recipe(tmp_path, model_type=None, model_config=None, model_name_or_path=str(model), max_steps=1)
    finetune(recipe, dataset=image_folder, output_dir=tmp_path / "run")
    assert not (tmp_path / "ran").exists()
