"""The card's metadata as the Hub's own client reads them, and what its text says and keeps to itself."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from hf_finetune.evaluation.metrics import run_metrics
from hf_finetune.hub.model_card import ModelCardContext, library_versions, training_command, write_model_card

TEST = {"accuracy": 0.8721, "top5_accuracy": 0.9941, "macro_f1": 0.871, "balanced_accuracy": 0.87, "loss": 0.4012}
VALIDATION = {**TEST, "accuracy": 0.88, "samples": 5_000}
REVISION = "0b2714987fa478483af9968de7c934580d0bb9a2"


@pytest.fixture
def context() -> ModelCardContext:
    return ModelCardContext(
        model_name="resnet50_cifar10",
        num_labels=10,
        dataset_name="CIFAR-10",
        dataset_id="uoft-cs/cifar10",
        dataset_revision=REVISION,
        base_model="microsoft/resnet-50",
        license="apache-2.0",
        splits={
            "train": "train (45,000 of 50,000 images)",
            "validation": "10 % of train (5,000 images), which also chose the checkpoint",
            "test": "test (10,000 images)",
        },
        metrics={"test": TEST, "validation": VALIDATION},
        checkpoint_split="validation",
        per_class=[{"name": "airplane", "precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 1_000}],
        per_class_split="test",
        recipe_yaml="learning_rate: 0.01\nnum_train_epochs: 200\n",
        command="hf-finetune train --recipe resnet50_cifar10 --output_dir runs/cifar10",
        seed=42,
        versions={"python": "3.11.4", "torch": "2.14.1"},
        notes=["3 images could not be read and were left out."],
    )


def write(context: ModelCardContext, folder: Path, **changes) -> tuple[ModelCard, str]:
    path = write_model_card(dataclasses.replace(context, **changes), folder)
    assert path == folder / "README.md"
    return ModelCard.load(path), path.read_text(encoding="utf-8")


def test_metadata_round_trip(context: ModelCardContext, tmp_path: Path):
    card, _ = write(context, tmp_path)
    data = card.data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "license": "apache-2.0",
        "base_model": "microsoft/resnet-50",
        "datasets": ["uoft-cs/cifar10"],
        "metrics": ["accuracy", "top5_accuracy", "f1", "balanced_accuracy", "loss"],
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "hf_finetune"],
    }
    name, results = model_index_to_eval_results(index)
    assert name == "resnet50_cifar10"
    assert {result.dataset_type for result in results} == {"uoft-cs/cifar10"}
    assert {result.dataset_revision for result in results} == {REVISION}
    figures = {(result.dataset_split, result.metric_type): result.metric_value for result in results}
    assert figures == {
        (split, hub_name): values[name]
        for split, values in (("test", TEST), ("validation", VALIDATION))
        for name, hub_name in zip(TEST, ("accuracy", "top5_accuracy", "f1", "balanced_accuracy", "loss"), strict=True)
    }
    chose = {result.metric_name for result in results if result.dataset_split == "validation"}
    assert "Accuracy (this split also chose the checkpoint)" in chose
    assert "Accuracy" in {result.metric_name for result in results if result.dataset_split == "test"}


def test_what_the_text_says(context: ModelCardContext, tmp_path: Path):
    _, text = write(context, tmp_path)
    for line in (
        "An image classifier of 10 classes: the weights of "
        "[microsoft/resnet-50](https://huggingface.co/microsoft/resnet-50), trained on "
        "[CIFAR-10](https://huggingface.co/datasets/uoft-cs/cifar10) with hf_finetune.",
        "| split | accuracy | top-5 accuracy | macro F1 | balanced accuracy | loss |",
        "| test (10,000 images) | 87.21 % | 99.41 % | 87.10 % | 87.00 % | 0.4012 |",
        "The validation split also chose the checkpoint, so its figures are higher than on new images.",
        'classifier = pipeline("image-classification", model="resnet50_cifar10")',
        "- train (45,000 of 50,000 images)",
        "- validation: 10 % of train (5,000 images), which also chose the checkpoint",
        "3 images could not be read and were left out.",
        "```yaml\nlearning_rate: 0.01\nnum_train_epochs: 200\n```",
        "It was trained with seed 42 by:",
        "```bash\nhf-finetune train --recipe resnet50_cifar10 --output_dir runs/cifar10\n```",
        "Versions: python 3.11.4, torch 2.14.1.",
        "All 1 classes, test (10,000 images):",
        "| airplane | 90.00 % | 80.00 % | 85.00 % | 1,000 |",
    ):
        assert line in text
    assert f"revision `{REVISION}`" in text
    assert "\n\n\n" not in text


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({"dataset": "cifar10", "output_dir": "/data/runs/x"}, ""),
        ({"dataset": "me/flowers", "model_name_or_path": "microsoft/resnet-50"}, ""),
        ({"dataset": "/data/secret/flowers"}, "--dataset path/to/flowers"),
        ({"dataset": "../my images"}, "--dataset 'path/to/my images'"),
        ({"dataset": "here", "load_from": "~/old.pth"}, "--dataset path/to/here --load_from path/to/old.pth"),
        ({"dataset": "cifar10", "dataset_path": "/data/c"}, "--dataset_path path/to/c"),
        ({"dataset": "digits", "push_to_hub": True, "hub_model_id": "me/x"}, "--push_to_hub false"),
    ],
)
def test_the_command_that_trains_again(values, flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("here", "digits"):  # a named dataset is not a folder, even if one has its name
        (tmp_path / name).mkdir()
    words = f"--recipe recipe.yaml {flags} --output_dir ../again".replace("  ", " ")
    assert training_command(values) == f"hf-finetune train {words}"


def test_the_card_says_what_the_model_is_not_for(context: ModelCardContext, tmp_path: Path):
    assert "## Limits" not in write(context, tmp_path)[1]
    _, text = write(context, tmp_path, not_for=["diagnosis", "a # heading\n# of another"])
    assert (
        "## Limits\n\n- It must not be used for: diagnosis\n- It must not be used for: a # heading # of another\n"
        in text
    )
    assert text.count("\n# ") == 1  # the title


def test_the_card_says_how_to_train_again(context: ModelCardContext, tmp_path: Path):
    text = write(context, tmp_path, again="hf-finetune train --recipe recipe.yaml --dataset path/to/x")[1]
    assert "run this command in the folder:\n\n```bash\nhf-finetune train --recipe recipe.yaml --dataset path" in text
    assert "Replace `path/to/...` by where your copy of these files is." in text and "\n\n\n" not in text
    text = write(context, tmp_path, again="hf-finetune train --recipe recipe.yaml")[1]
    assert "Replace" not in text and "\n\n\n" not in text
    assert training_command({"output_dir": "x"}) is None  # images of a Python program
    assert "train it again" not in write(context, tmp_path, again=None)[1]


def test_a_metric_of_the_run_is_in_the_table_and_the_metadata(context: ModelCardContext, tmp_path: Path):
    registry = run_metrics({"brier_score": lambda probabilities, labels: 0.0})
    metrics = {"test": {"accuracy": 0.5, "brier_score": 0.25}}
    card, text = write(context, tmp_path, registry=registry, metrics=metrics)
    assert "| split | accuracy | brier score |" in text and "| 50.00 % | 0.2500 |" in text
    assert card.data.to_dict()["metrics"] == ["accuracy", "brier_score"]
    assert [result.metric_name for result in card.data.eval_results] == ["Accuracy", "Brier score"]


def test_intervals_stand_in_brackets_and_are_explained(context: ModelCardContext, tmp_path: Path):
    assert "In brackets" not in write(context, tmp_path)[1]
    split = next(iter(context.metrics))
    text = write(context, tmp_path, intervals={split: {"accuracy": (0.861, 0.8801)}})[1]
    assert re.search(r"\| \d+\.\d\d % \(86\.1-88\.0\) \|", text) and text.count("(86.1-88.0)") == 1
    assert "In brackets: 95 % intervals" in text


def test_images_only_where_they_are(context: ModelCardContext, tmp_path: Path):
    assert "![" not in write(context, tmp_path)[1]
    (tmp_path / "training_curve.png").touch()
    (tmp_path / "confusion_matrix.png").touch()
    (tmp_path / "reliability_diagram.png").touch()
    text = write(context, tmp_path)[1]
    assert "](training_curve.png)" in text and "](confusion_matrix.png)" in text
    assert "](reliability_diagram.png)" in text


@pytest.mark.parametrize(
    ("config", "call", "sentence"),
    [
        (
            '{"model_type": "lenet5", "auto_map": {"AutoModelForImageClassification": "lenet5.LeNet5"}}',
            'model="resnet50_cifar10", trust_remote_code=True)',
            "`lenet5.py`, comes with the weights, and `trust_remote_code` runs it. Where hf_finetune is installed,",
        ),
        (
            '{"model_type": "timm_wrapper"}',
            'model="resnet50_cifar10")',
            "The package timm is needed: `pip install timm`.",
        ),
    ],
)
def test_what_loading_needs(context: ModelCardContext, tmp_path: Path, config: str, call: str, sentence: str):
    (tmp_path / "config.json").write_text(config)
    text = write(context, tmp_path)[1]
    assert call in text and sentence in text and "\n\n\n" not in text
    assert sentence not in write(context, tmp_path.parent)[1]


def test_local_images_from_random_weights(context: ModelCardContext, tmp_path: Path):
    changes = {"base_model": None, "license": None, "dataset_id": None, "dataset_revision": None}
    card, text = write(context, tmp_path, dataset_name="my flowers", **changes)
    assert not {"base_model", "license", "datasets"} & set(card.data.to_dict())
    assert card.data.eval_results[0].dataset_type == "my flowers"
    assert "random weights, trained on my flowers with" in text
    assert "revision" not in text


def test_a_local_base_is_not_a_hub_id(context: ModelCardContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    card, text = write(context, tmp_path, base_model="runs/first")
    assert "base_model" not in card.data.to_dict()
    assert "base_model" not in write(context, tmp_path, base_model="resnet_small_cifar10")[0].data.to_dict()
    assert "the weights of runs/first," in text


def test_without_figures(context: ModelCardContext, tmp_path: Path):
    card, text = write(context, tmp_path, metrics={}, per_class=(), checkpoint_split="validation")
    assert "model-index" not in card.data.to_dict()
    assert "## Figures" not in text and "## Classes" not in text and "higher than" not in text
    assert "\n\n\n" not in text


def test_figures_that_are_not_numbers_stay_out_of_the_index(context: ModelCardContext, tmp_path: Path):
    card, text = write(context, tmp_path, metrics={"test": {"accuracy": 0.5, "loss": float("nan")}})
    assert [result.metric_type for result in card.data.eval_results] == ["accuracy"]
    assert "| test (10,000 images) | 50.00 % | - |" in text


def test_at_most_fifty_classes_and_names_that_are_markdown(context: ModelCardContext, tmp_path: Path):
    row = {"precision": 0.5, "recall": 0.5, "support": 10}
    per_class = [{"name": f"class {number}", "f1": number / 100, **row} for number in range(60)]
    per_class[0]["name"] = "a|b *c*\nd_e"
    _, text = write(context, tmp_path, per_class=per_class)
    assert "The 50 of 60 classes with the lowest F1, test (10,000 images):" in text
    assert r"| a\|b \*c\* d\_e | 50.00 % |" in text
    assert "The 10 of 60 classes with the highest F1 (not shown: 0); `metrics.json` has all, test (10,000" in text
    assert text.count("\n| class ") == (1 + 49) + (1 + 10)
    worst = text[text.index("The 50 of 60") :]
    assert "| class 49 |" in worst and "| class 50 |" not in worst


def test_neither_token_nor_home_nor_working_folder(
    context: ModelCardContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home, work = tmp_path / "ann_b", tmp_path / "my_work"
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    token = "hf_" + "aB3" * 11
    _, text = write(
        context,
        tmp_path,
        base_model=f"{home}/checkpoints/first",
        recipe_yaml=f"dataset_path: {home}/images\nhub_token: other-secret\noutput_dir: {work}/runs/x\n",
        command=f"hf-finetune train --output_dir {work}/runs/x --cache={home} --hub_token {token} --seed 1",
        notes=[f"Read from {home}/images; {home}bel is another's.", token],
    )
    assert "dataset_path: ~/images\nhub_token: ***\noutput_dir: ./runs/x\n" in text
    assert "hf-finetune train --output_dir ./runs/x --cache=~ --hub_token *** --seed 1" in text
    assert "Read from ~/images; .../ann_bbel is another's." in text
    assert "the weights of ~/checkpoints/first," in text
    assert token not in text and "other-secret" not in text and f"{work}/" not in text


def test_no_token_is_left_alone(context: ModelCardContext, tmp_path: Path):
    assert "hub_token: null\n" in write(context, tmp_path, recipe_yaml="hub_token: null\nseed: 1")[1]


def test_library_versions():
    versions = library_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_what_others_wrote_is_no_markup(context: ModelCardContext, tmp_path: Path):
    evil = '<img src=x onerror="a()">\x1b[2J [x](javascript:a) `b` &lt;'
    row = {"name": evil, "precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 1}
    fence = "a: |\n  ```\n  <script>\n"
    licence = "mit\n---\n<script>\ntags: [x]"
    card, text = write(
        context, tmp_path, per_class=[row], notes=[evil], model_name='x"<b>\\', recipe_yaml=fence, license=licence,
        splits={**context.splits, "test": evil}, dataset_name=evil, dataset_id=None,
    )  # fmt: skip
    _, _, body = text.partition("\n---\n\n#")
    assert "\x1b" not in text and r"\u001b[2J" in text.replace(r"\[", "[")
    shown = body.replace(f"````yaml\n{fence}````", "")
    assert shown != body, "the fence of the recipe is longer than the one in it"
    assert re.search(r"(?<!\\)<(?!b>)", shown) is None and re.search(r"(?<!\\)\]\(javascript", shown) is None
    assert re.search(r"(?<!\\)&", shown) is None and r'model="x\"<b>\\"' in shown and r'x"\<b\>\\' in shown
    assert card.data.license == r"mit\u000a---\u000a<script>\u000atags: [x]"
    assert card.data.tags == ["image-classification", "hf_finetune"]
