"""The guess at what a mistyped word was meant to be."""

from __future__ import annotations

import pytest

from hf_finetune.errors import did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "guess"),
    [
        ("trian", ["train", "test"], "train"),
        ("cifra10", ["cifar10", "cifar100"], "cifar10"),
        ("lenet5", ["resnet50", "lenet5_mnist"], "lenet5_mnist"),  # a beginning
        ("learning_rat", ["learning_rate", "lr_gamma"], "learning_rate"),
    ],
)
def test_a_near_word_is_guessed(word: str, known: list[str], guess: str):
    assert did_you_mean(word, known) == f' Did you mean "{guess}"?'


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("eval_batch_size", ["eval_strategy"]),
        ("warmup_ratio", ["warmup_steps", "warmup_type"]),
        ("patience", ["pretrained"]),
        ("dropout", ["output_dir"]),
        ("le", ["learning_rate"]),  # too short to be the beginning of something
    ],
)
def test_what_is_only_a_little_alike_is_not(word: str, known: list[str]):
    assert did_you_mean(word, known) == ""
