"""The Python API: objects in the place of names, what is returned, and mistakes in Python's words."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from torchvision.transforms import v2
from transformers import (
    BitImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    TrainerCallback,
)

import hf_finetune
from hf_finetune import UserError, evaluate, export, finetune, predict
from hf_finetune.training.loss import BatchLoss, classification_loss
from tests.helpers.tiny import TINY_RECIPE, TINY_RESNET

NAMES = ["blue", "green", "red"]
# What a model object brings along itself.
WITHOUT_MODEL = {key: value for key, value in TINY_RECIPE.items() if not key.startswith("model_")}


@pytest.fixture(scope="module")
def colours(image_folder: Path) -> DatasetDict:
    """The coloured images as a DatasetDict."""
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    splits = {}
    for split in ("train", "test"):
        files = sorted((image_folder / split).rglob("*.png"))
        rows = {"image": [str(file) for file in files], "label": [NAMES.index(file.parent.name) for file in files]}
        splits[split] = Dataset.from_dict(rows, features=features)
    return DatasetDict(splits)


class TorchColours(torch.utils.data.Dataset):
    """The coloured images as a torch dataset of float tensors, 0 to 1."""

    classes = NAMES

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.rglob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        pixels = torch.from_numpy(np.array(PIL.Image.open(self.files[row]))).permute(2, 0, 1)
        return pixels.float() / 255, NAMES.index(self.files[row].parent.name)


def tiny_model(num_labels: int) -> ResNetForImageClassification:
    torch.manual_seed(0)
    return ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=num_labels))


class Counting(TrainerCallback):
    steps = 0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        Counting.steps += 1


def my_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none") * 0.5


def sureness(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(probabilities[np.arange(len(labels)), labels].mean())


# ---- training with objects ----


def test_a_script_that_gives_objects_trains(colours, tmp_path):
    """A DatasetDict, a model object, a loss, a callback and a metric, which chooses the checkpoint too."""
    Counting.steps = 0
    result = finetune(
        WITHOUT_MODEL,
        dataset=colours,
        model=tiny_model(10),
        loss=my_loss,
        callbacks=[Counting],
        metrics={"sureness": sureness},
        metric_for_best_model="sureness",
        output_dir=tmp_path / "output",
    )
    assert result.metrics["test_accuracy"] > 0.9 and 0 < result.metrics["test_sureness"] < 1
    assert Counting.steps == 15  # 65 images in batches of 16, three epochs
    assert result.model.config.id2label == dict(enumerate(NAMES)) and result.output_dir == tmp_path / "output"
    figures = json.loads((tmp_path / "output/metrics.json").read_text())["metrics"]
    assert figures["test_sureness"] == result.metrics["test_sureness"]
    recipe = (tmp_path / "output/recipe.yaml").read_text()
    assert "\n# dataset: in-memory Dataset (train 72, test 24 images; fingerprint " in recipe
    assert "# model: ResNetForImageClassification, " in recipe and "# loss: tests.test_api.my_loss\n" in recipe
    assert not {"dataset", "model_type", "loss"} & yaml.safe_load(recipe).keys()
    card = (tmp_path / "output/README.md").read_text()
    assert "# loss: tests.test_api.my_loss" in card and "sureness" in card
    states = [json.loads(path.read_text()) for path in tmp_path.glob("output/checkpoint-*/trainer_state.json")]
    assert any("eval_sureness" in entry for entry in states[0]["log_history"])


def test_other_objects_train_too(image_folder, tmp_path):
    """Torch datasets by split, a v2 transform, an image processor object."""
    processor = BitImageProcessor(
        size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20}, image_mean=[0.4] * 3, image_std=[0.3] * 3
    )
    result = finetune(
        {"_base_": "_base_/default_runtime", **TINY_RECIPE},
        dataset={split: TorchColours(image_folder / split) for split in ("train", "test")},
        train_transforms=v2.Compose([v2.RandomCrop(16, padding=1), v2.Resize((20, 20)), v2.RandomHorizontalFlip()]),
        image_processor=processor,
        output_dir=str(tmp_path / "output"),
    )
    assert result.metrics["test_accuracy"] > 0.9
    saved = json.loads((tmp_path / "output/preprocessor_config.json").read_text())
    assert saved["size"] == {"shortest_edge": 20} and saved["image_mean"] == [0.4] * 3
    assert "image_size" not in yaml.safe_load((tmp_path / "output/recipe.yaml").read_text())


def test_a_torch_dataset_keeps_its_pixels_and_is_known_again(image_folder):
    from hf_finetune.data.sources.objects import read_object

    dataset = TorchColours(image_folder / "test")
    first, second = read_object(dataset), read_object(dataset)
    assert first.fingerprint == second.fingerprint != read_object(TorchColours(image_folder / "train")).fingerprint
    row = first.raw.splits["train"].cast_column("image", Image())[5]
    assert np.array_equal(np.array(row["image"]), np.array(PIL.Image.open(dataset.files[5])))
    assert first.raw.splits["train"].features["label"].names == NAMES and row["label"] == dataset[5][1]


def test_a_folder_of_torchvision_is_read_from_its_files(image_folder):
    from torchvision.datasets import ImageFolder

    from hf_finetune.data.sources.objects import read_object

    given = read_object(ImageFolder(str(image_folder / "train")))
    assert given.name == "train" and given.raw.splits["train"][0]["image"]["bytes"] is None


def test_an_interrupted_run_resumes_with_the_same_objects_only(colours, tmp_path, logged):
    settings = {"output_dir": tmp_path / "output", "loss": my_loss}
    whole = finetune(TINY_RECIPE, dataset=colours, output_dir=tmp_path / "whole", loss=my_loss)
    finetune(TINY_RECIPE, dataset=colours, **settings)
    (tmp_path / "output/metrics.json").unlink()
    with pytest.raises(UserError, match=r"unfinished run that was begun with loss: tests.test_api.my_loss; give the"):
        finetune(TINY_RECIPE, dataset=colours, output_dir=tmp_path / "output")
    fewer = DatasetDict(train=colours["train"].select(range(70)), test=colours["test"])
    with pytest.raises(UserError, match="begun with dataset: .* or overwrite_output_dir=True to start anew"):
        finetune(TINY_RECIPE, dataset=fewer, **settings)
    logged.clear()
    resumed = finetune(TINY_RECIPE, dataset=colours, **settings)
    assert "An interrupted run is here; it resumes from checkpoint-15." in logged
    assert any("loss is compared by name alone" in line for line in logged)
    assert resumed.metrics["test_loss"] == whole.metrics["test_loss"]


@pytest.mark.parametrize(("accumulation", "mixed"), [(1, False), (3, False), (1, True), (3, True)])
def test_a_given_loss_has_the_gradient_of_the_built_in_one(accumulation, mixed):
    """Over accumulation steps, with images that do not count, and with mixed labels that count in part."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 2, -100, 1, 1, 0])
    if mixed:
        labels = torch.rand(6, 3)
        labels /= labels.sum(dim=1, keepdim=True)
        labels[2], labels[3] = 0, labels[3] * 0.7
    count = torch.tensor(5)
    features, gradients = torch.randn(6, 4), []
    for loss in (
        classification_loss(0.0),
        BatchLoss(torch.nn.CrossEntropyLoss(reduction="none")),
    ):
        torch.manual_seed(1)
        head = torch.nn.Linear(4, 3)
        for part, part_labels in zip(features.chunk(accumulation), labels.chunk(accumulation), strict=True):
            outputs = type("Outputs", (), {"logits": head(part)})
            loss(outputs, part_labels, num_items_in_batch=count).backward()
        gradients.append(head.weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_model_object_keeps_a_head_that_fits_and_is_trained_in_place(colours, tmp_path):
    model = tiny_model(3)
    model.config.id2label, model.config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
    before = model.classifier[1].weight.detach().clone()
    result = finetune(
        WITHOUT_MODEL, dataset=colours, model=model, output_dir=tmp_path / "output", learning_rate=0, max_steps=1
    )
    assert result.model is model and torch.equal(model.classifier[1].weight, before)


# ---- where results go ----


def test_runs_of_own_data_have_folders_of_their_own(image_folder, tmp_path, monkeypatch, logged):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "my images"
    data.symlink_to(image_folder)
    settings = {"dataset": Path("my images"), "num_train_epochs": 1}
    folders = [str(finetune(TINY_RECIPE, **settings).output_dir) for _ in range(2)]
    assert folders == ["runs/my_images", "runs/my_images-2"]
    assert any("holds the results of a finished run; this run goes into runs/my_images-2." in line for line in logged)
    (tmp_path / "runs/my_images-2/metrics.json").unlink()
    assert str(finetune(TINY_RECIPE, **settings).output_dir) == "runs/my_images-2"
    (tmp_path / "runs/my_images-2/metrics.json").unlink()
    assert str(finetune(TINY_RECIPE, **settings, seed=7).output_dir) == "runs/my_images-3"
    assert str(finetune(TINY_RECIPE, **settings, overwrite_output_dir=True).output_dir) == "runs/my_images-3"


def test_the_typo_of_the_dataset_is_told_before_the_folder(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match='"cifar1" is no named dataset'):
        finetune(TINY_RECIPE, dataset="cifar1", output_dir=tmp_path / "taken")


# ---- results ----


@pytest.mark.usefixtures("drawn_plots")
def test_a_result_is_four_lines_and_shows_its_plots(colours, tmp_path):
    result = finetune(TINY_RECIPE, dataset=colours, output_dir=tmp_path / "output", num_train_epochs=1)
    lines = repr(result).splitlines()
    assert len(lines) == 4 and lines[0].startswith("FinetuneResult: accuracy of ") and "24 test images" in lines[0]
    shown = result._repr_html_()
    assert shown.count("data:image/png;base64,") == 2 and 'src="/' not in shown


@pytest.mark.usefixtures("drawn_plots")
def test_evaluate_takes_objects_and_writes_its_results(finished_run, colours, tmp_path):
    result = evaluate(
        str(finished_run), dataset=colours, split="train", metrics={"sureness": sureness},
        output=tmp_path / "figures.json", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    assert result.split == "train" and result.metrics["samples"] == 72 and 0 < result.metrics["sureness"] < 1
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["metrics"]["accuracy"] == result.metrics["accuracy"] and np.sum(written["confusion_matrix"]) == 72
    assert (tmp_path / "figures_confusion_matrix.png").stat().st_size > 1000
    assert result._repr_html_().count("data:image/png;base64,") == 1 and "72 images of train" in repr(result)
    result.save(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text().count("\n") == 73


def test_evaluate_takes_a_split_by_its_own_name(finished_run, colours):
    renamed = DatasetDict(train=colours["train"], holiday=colours["test"])
    result = evaluate(finished_run, dataset=renamed, split="holiday", use_cpu=True, disable_tqdm=True)
    assert result.split == "holiday" or result.metrics["samples"] == 24
    with pytest.raises(UserError, match=r'test_split: .* has no split "holidays". Did you mean "holiday"'):
        evaluate(finished_run, dataset=renamed, split="holidays", use_cpu=True)
    with pytest.raises(UserError, match="split: .* has no split validation"):
        evaluate(finished_run, dataset=renamed, split="validation", use_cpu=True)


def test_predict_answers_the_same_for_a_file_an_image_an_array_and_a_tensor(finished_run, image_folder, capsys):
    file = image_folder / "test" / "red" / "00.png"
    image = PIL.Image.open(file)
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    capsys.readouterr()
    answers = predict(finished_run, [file, str(file), image, array, tensor, tensor.float() / 255], top_k=2)
    assert capsys.readouterr() == ("", "")
    assert {answer.label for answer in answers} == {"red"} and len({answer.classes for answer in answers}) == 1
    assert [answer.image for answer in answers] == [file, file, 2, 3, 4, 5]
    assert answers[0].score == answers[0].classes[0][1] > answers[0].classes[1][1]
    (one,) = predict(finished_run, array)
    assert one.label == "red" and len(predict(finished_run, image_folder / "test", batch_size=7)) == 24
    model = ResNetForImageClassification.from_pretrained(finished_run)
    assert predict(model, file)[0].classes[0] == pytest.approx(answers[0].classes[0])


def test_an_unreadable_image_says_so_in_its_place(finished_run, image_folder, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    broken, good = predict(finished_run, [tmp_path / "broken.png", image_folder / "test" / "red" / "00.png"])
    assert "cannot be read as an image" in broken.error and good.label == "red"
    with pytest.raises(UserError, match=r"broken.png cannot be read as an image"):
        _ = broken.label


def test_export_takes_paths(finished_run, tmp_path):
    folder = export(finished_run, format="safetensors", output=tmp_path / "copy")
    assert folder == tmp_path / "copy" and (folder / "model.safetensors").is_file()


# ---- mistakes ----


def wrong_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rat": 0.1}, 'There is no setting "learning_rat". Did you mean "learning_rate"?'),
        ({"do_train": True}, "There is no setting do_train here: training and the final"),
        ({"learning_rate": "fast"}, r"learning_rate: 'fast' is not a number, in finetune\(learning_rate=...\)"),
        ({"global_batch_size": 16, "gradient_accumulation_steps": 3}, "use global_batch_size=15 or another"),
        ({"loss": wrong_loss}, r"loss: it returned \(\) for 2 images; return one loss for each image, such as"),
        ({"loss": "cross_entropi"}, 'loss is "cross_entropi". Did you mean "cross_entropy"'),
        ({"loss": 3}, r"loss is int; use a name or a function of \(logits, labels\)"),
        ({"loss": lambda logits, labels: logits @ labels}, "loss: it does not take labels that are class ids"),
        ({"loss": my_loss, "label_smoothing_factor": 0.1}, "label_smoothing_factor is not read with a loss"),
        ({"model": torch.nn.Linear(2, 2)}, "model is Linear; use a name, a folder or a transformers.PreTrainedModel"),
        (
            {"model": ResNetModel(ResNetConfig(**TINY_RESNET))},
            "model is ResNetModel, which has no head for classes; use a ResNetFor",
        ),
        ({"model": "nothing_here"}, 'model_name_or_path: there is no checkpoint "nothing_here"'),
        ({"dataset": 3}, "dataset: split train is a int; pass a datasets.Dataset or DatasetDict, a torch"),
        ({"dataset": {}}, "dataset: the mapping of splits is empty; pass at least the split train"),
        ({"dataset_path": "x"}, "dataset and dataset_path exclude each other"),
        ({"metrics": ["acuracy"]}, 'metrics: there is no metric "acuracy". Did you mean "accuracy"'),
        ({"metrics": {"accuracy": sureness}}, "accuracy is the name of a figure|accuracy. is the name of a figure"),
        ({"metrics": {"mine": lambda probabilities, labels: 1 / 0}}, "metrics: mine .*ZeroDivisionError"),
        ({"metric_for_best_model": "mine"}, 'metric_for_best_model is "mine", which is not measured'),
        ({"callbacks": [print]}, "callbacks: .* is no transformers.TrainerCallback"),
        ({"image_processor": print}, "image_processor is builtin_function_or_method"),
        ({"train_transforms": lambda image: image.float()}, "train_transforms returned torch.float32; return uint8"),
        ({"train_transforms": lambda image: 3}, "train_transforms returned int; return an image"),
        ({"recipe": {"learning_rat": 1}}, 'recipe: unknown key "learning_rat". Did you mean "learning_rate"'),
        ({"recipe": 3}, "recipe is int; use a packaged name, the path of a file, or a mapping"),
        ({"recipe": {"seed": "x", **TINY_RECIPE}}, r"seed: 'x' is not a number, in recipe\[\"seed\"\]"),
    ],
)
def test_mistakes_are_one_line_in_the_words_of_python(colours, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        finetune(**{"recipe": TINY_RECIPE, "dataset": colours, "output_dir": tmp_path / "output", **arguments})
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)
    assert not (tmp_path / "output/recipe.yaml").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("use --seed 1, or --streaming false.", "use seed=1, or streaming=False."),
        (
            "use another --output_dir, or --overwrite_output_dir to start anew",
            "use another output_dir, or overwrite_output_dir=True to start anew",
        ),
        ("use --on_bad_image skip.", 'use on_bad_image="skip".'),
        (
            "use a lower --learning_rate or add --warmup_steps, or --on_nan skip 10.",
            'use a lower learning_rate or add warmup_steps, or on_nan=["skip", 10].',
        ),
        ("use --dataset NAME --dataset_path /data/x, or", 'use dataset=NAME dataset_path="/data/x", or'),
        ("leave --streaming out", "leave streaming out"),
        ("use --lr_milestones 100 150", "use lr_milestones=[100, 150]"),
        ("use --save_total_limit null", "use save_total_limit=None"),
        ("use --config_file scripts/x.yaml.", "use --config_file scripts/x.yaml."),
        ("The same command resumes the run.", "The same call resumes the run."),
    ],
)
def test_flags_become_arguments(flags, words):
    from hf_finetune.config.wording import python_wording

    assert python_wording(flags) == words


# ---- what there is ----


def test_signatures_and_names_are_public():
    parameters = inspect.signature(finetune).parameters
    assert " ".join(parameters) == (
        "recipe dataset model image_processor train_transforms loss teacher metrics callbacks settings"
    )
    assert all(item.annotation is not item.empty for item in parameters.values())
    assert "Unpack[Settings]" in str(parameters["settings"].annotation)
    for name in hf_finetune.__all__:
        value = getattr(hf_finetune, name)
        assert isinstance(value, str) or value.__doc__, name
    for function in (finetune, evaluate, predict, export):
        documented = inspect.getdoc(function)
        assert all(f"{name}: " in documented for name in inspect.signature(function).parameters)
    assert hf_finetune.Trainer.__name__ == "ImageClassificationTrainer"
    assert (Path(hf_finetune.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'finetun'"):
        _ = hf_finetune.finetun


def test_the_allocator_is_left_alone_until_a_run_begins(monkeypatch: pytest.MonkeyPatch, colours, tmp_path):
    from hf_finetune import host_memory
    from hf_finetune.training import run

    calls: list[Callable[..., Any]] = []
    monkeypatch.setattr(run, "keep_freed_memory", calls.append)
    finetune(TINY_RECIPE, dataset=colours, output_dir=tmp_path / "output", max_steps=1)
    assert len(calls) == 1 and host_memory.keep_freed_memory is not run.keep_freed_memory
