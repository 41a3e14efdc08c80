"""The file of a search space, and a line for each mistake in it."""

from __future__ import annotations

import pytest

from hf_finetune.config.search_space import Choices, Range, read_space
from hf_finetune.errors import UserError


def test_a_file_says_ranges_and_choices(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(
        "learning_rate: {low: 1e-4, high: 1e-1, log: true}\n"
        "num_train_epochs: {low: 3, high: 10}\n"
        "weight_decay: {low: 0.0, high: 1}\n"
        "optim: {choices: [sgd, adamw_torch]}\n"
        "freeze: {choices: [[batch_norm], []]}\n"
    )
    assert read_space(file) == {
        "learning_rate": Range(1e-4, 1e-1, log=True, whole=False),
        "num_train_epochs": Range(3, 10, log=False, whole=True),
        "weight_decay": Range(0.0, 1, log=False, whole=False),
        "optim": Choices({"sgd": "sgd", "adamw_torch": "adamw_torch"}),
        "freeze": Choices({'["batch_norm"]': ["batch_norm"], "[]": []}),
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is empty"),
        ("{}", "names no key"),
        ("learning_rat: {low: 1, high: 2}", 'line 1: unknown key "learning_rat". Did you mean "learning_rate"'),
        ("seed: {low: 1, high: 2}\nseed: {low: 1, high: 2}", 'the key "seed" stands twice'),
        ("_base_: x\nseed: {low: 1, high: 2}", "has a _base_, which only a recipe has"),
        ("output_dir: {choices: [a, b]}", "output_dir is the same for all trials"),
        ("learning_rate: 0.1", "learning_rate is 0.1, which is no range and no choices; use {low:"),
        ("optim: [sgd, adamw_torch]", "optim is ['sgd', 'adamw_torch'], which is no range"),
        ("learning_rate: {min: 1, max: 2}", 'learning_rate has "min", which means nothing there'),
        ("learning_rate: {low: 1, high: 2, choices: [1, 2]}", "learning_rate has choices and a range"),
        ("optim: {choices: [sgd]}", "the choices of optim are ['sgd']; use a list of two or more"),
        ("optim: {choices: [sgd, sgd]}", "the choices of optim have one value twice"),
        ("seed: {choices: [1, x]}", "seed: 'x' is not a number"),
        ("optim: {low: 1, high: 2}", "optim is no number, so it has no range"),
        ("learning_rate: {low: 1}", "high of learning_rate is missing"),
        ("learning_rate: {low: a, high: 2}", "low of learning_rate is 'a', which is no number"),
        ("seed: {low: 0.5, high: 2}", "seed: 0.5 is not a whole number"),
        ("learning_rate: {low: 2, high: 1}", "low of learning_rate is 2, which is not below high, 1"),
        ("learning_rate: {low: 0, high: 1, log: true}", "low of learning_rate is 0, and log needs a number above 0"),
        ("learning_rate: {low: 1, high: 2, log: 3}", "log of learning_rate is 3; use true or false"),
    ],
)
def test_mistakes(text, line, tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_space(file)
    message = str(caught.value)
    assert line in message and "space.yaml" in message and "\n" not in message


def test_mistakes_of_a_mapping():
    with pytest.raises(UserError, match=r'^space: unknown key "learning_rat"'):
        read_space({"learning_rat": {"low": 1, "high": 2}})
    with pytest.raises(UserError, match=r"nowhere\.yaml cannot be read"):
        read_space("nowhere.yaml")
