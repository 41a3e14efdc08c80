"""Names of other programs, and wishes that are no key, are answered with what to use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hf_finetune.config.arguments import argument_fields
from hf_finetune.config.fields import check_words
from hf_finetune.config.recipe import load_recipe
from hf_finetune.config.synonyms import ANSWERS, OTHER_NAMES, answer
from hf_finetune.data.transforms.build import known_transforms
from hf_finetune.errors import UserError

KEYS = ["recipe", *argument_fields()]


def test_every_name_leads_to_a_key_and_is_none_itself():
    assert OTHER_NAMES.keys() <= set(KEYS)
    names = [name for others in OTHER_NAMES.values() for name in others] + list(ANSWERS)
    assert len(names) == len(set(names))
    assert not set(names) & set(KEYS)


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("--epochs", "num_train_epochs"),
        ("--lr", "learning_rate"),
        ("--batch", "global_batch_size"),
        ("--batch-size=8", "global_batch_size"),
        ("--imgsz", "image_size"),
        ("--crop-mode", "resize_mode"),
        ("--workers", "dataloader_num_workers"),
        ("--output", "output_dir"),
        ("--data", "dataset"),
        ("--weights", "model_name_or_path"),
        ("--wd", "weight_decay"),
        ("--random_seed", "seed"),
    ],
)
def test_another_name_is_answered_with_ours(flag: str, key: str):
    with pytest.raises(UserError) as caught:
        check_words([flag], KEYS)
    assert str(caught.value) == f'There is no flag "{flag.split("=")[0]}"; use --{key}.'


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--resume", "the same command resumes an interrupted run by itself"),
        ("--device", "use --use_cpu for the CPU, or choose GPUs with CUDA_VISIBLE_DEVICES"),
        ("--amp", "use --precision bf16, or --precision fp16 for a GPU without bfloat16"),
        ("--patience", "use --early_stopping_patience"),
    ],
)
def test_a_wish_is_answered_with_a_sentence(flag: str, sentence: str):
    with pytest.raises(UserError) as caught:
        check_words([flag], KEYS)
    assert str(caught.value) == f'There is no flag "{flag}"; {sentence}.'


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--class_weight", "use --class_weights"),
        ("--oversample", "use --sampling"),
        ("--mixup", "use --train_transforms with MixUp"),
        ("--cutmix-alpha=1", "use --train_transforms with CutMix"),
        ("--auto_augment", "use --train_transforms with AutoAugment"),
        ("--randaugment", "use --train_transforms with RandAugment"),
        ("--letterbox", "use --resize_mode pad, which fits whole images into borders, or --resize_mode squash"),
        ("--keep_aspect_ratio", "use --resize_mode pad"),
        ("--rect", "use --image_size with height and width"),
        ("--tta", "it is of evaluate and predict, as hf-finetune evaluate --tta flip"),
        ("--lora", "use --peft, such as --peft '{r: 8"),
        ("--use_dora", "use --peft"),
    ],
)
def test_what_is_not_built_in_says_how_it_is_done_here(flag: str, words: str):
    with pytest.raises(UserError, match=words):
        check_words([flag], KEYS)


def test_the_transforms_that_answers_name_exist():
    named = [word for text in ANSWERS.values() for word in re.findall(r"transforms with ([\w, ]+)", text)]
    words = {word for text in named for word in re.findall(r"\b[A-Z]\w+", text)}
    assert "MixUp" in words
    assert words <= known_transforms().keys()


def test_a_recipe_is_answered_without_dashes(tmp_path: Path):
    path = tmp_path / "own.yaml"
    for key, sentence in (
        ("lr", "use learning_rate"),
        ("amp", "use precision bf16, or precision fp16 for a GPU without bfloat16"),
    ):
        path.write_text(f"{key}: 1\n")
        with pytest.raises(UserError, match=f'own.yaml, line 1: there is no key "{key}"; {sentence}\\.$'):
            load_recipe(path, KEYS)


def test_what_a_command_does_not_have_is_not_advised():
    assert answer("epochs", ["dataset", "seed"]) is None
    with pytest.raises(UserError, match='There is no flag "--epochs". To list the flags'):
        check_words(["--epochs"], ["dataset", "seed"])
    assert answer("mixup", ["dataset", "seed"]) is None


@pytest.mark.parametrize("flag", ["--label_map", "--verbose_steps", "--tensor", "--dataloader"])
def test_what_is_not_near_is_not_guessed_at(flag: str):
    if not any(key.startswith(flag[2:]) for key in KEYS):
        with pytest.raises(UserError, match="To list the flags of a command"):
            check_words([flag], KEYS)
