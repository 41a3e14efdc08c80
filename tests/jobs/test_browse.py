"""`browse` shows what the training really sees: the same pixels bit for bit, stage by stage, with its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from transformers import TrainerCallback

from hf_finetune import UserError, browse, finetune
from hf_finetune.cli.main import main
from tests.helpers.streamed import write_parquet
from tests.helpers.tiny import TINY_RECIPE, write_recipe

MIXED = [
    {"RandomCrop": {"size": 16, "padding": 2}},
    "RandomHorizontalFlip",
    "RandAugment",
    {"RandomErasing": {"p": 0.9, "value": "random"}},
    {"MixUp": {"alpha": 0.8}},
]


class FirstBatches(TrainerCallback):
    """Keeps what the network is given in training."""

    def __init__(self) -> None:
        self.pixel_values: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []
        self.begun = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.begun = True
        model.register_forward_pre_hook(self.keep, with_kwargs=True)

    def keep(self, model: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if model.training:
            self.pixel_values.append(kwargs["pixel_values"].clone())

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.begun:
            self.labels.append(labels.clone())
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of several sizes in two classes."""
    folder, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(20):
        sides = (60 + 3 * number, 90 - 2 * number, 3)
        path = folder / ("cat", "dog")[number % 2] / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(generator.integers(0, 256, sides).astype(np.uint8)).save(path)
    return folder


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        ("image_folder", {"train_transforms": MIXED}),
        (
            "photographs",
            {
                "train_transforms": [{"RandomResizedCrop": {"size": 16}}, {"CutMix": {}}],
                "image_size_schedule": {0: 12, 0.9: 16},
                "global_batch_size": 8,
            },
        ),
    ],
)
def test_the_last_stage_is_what_the_training_gives_the_network(data, changes, request, tmp_path):
    folder, seen_by = request.getfixturevalue(data), FirstBatches()
    recipe = {**TINY_RECIPE, **changes, "validation_fraction": 0.2, "num_train_epochs": 1}
    finetune(recipe, dataset=folder, loss=seen_by.loss, callbacks=[seen_by], output_dir=tmp_path / "run")
    result = browse(recipe, dataset=folder, images=12, output=tmp_path / "browse")
    count = len(result.seen.names)
    assert count == 12  # of two batches in the second case
    given = torch.cat(seen_by.pixel_values)[:count]
    assert torch.equal(result.seen.pixel_values, given) and given.dtype == torch.float32
    assert torch.equal(result.seen.targets, torch.cat(seen_by.labels)[:count])
    assert result.seen.is_mixed and ((result.seen.targets > 0) & (result.seen.targets < 1)).any()


def test_stages_are_those_of_the_recipe_in_order(image_folder, tmp_path):
    result = browse({**TINY_RECIPE, "train_transforms": MIXED}, dataset=image_folder, output=tmp_path / "out")
    seen = result.seen
    names = [stage.name for stage in (seen.decoded, *seen.training, seen.evaluation)]
    assert names == [
        *("decoded", "RandomCrop", "RandomHorizontalFlip", "RandAugment", "normalized", "RandomErasing", "MixUp"),
        "as in evaluation",
    ]
    crop, flip, _, normalized, erased, mixed = seen.training
    assert crop.parameters.startswith("size 16, padding 2") and flip.parameters == "p 0.5"
    assert (crop.place, normalized.place) == ("the batch", "the batch")
    # A flip is a flip of the crop, and what is normalized is the last uint8 image again.
    for before, after in zip(crop.images, flip.images, strict=True):
        assert any(np.array_equal(other, after) for other in (before, before[:, ::-1]))
    for before, after in zip(seen.training[2].images, normalized.images, strict=True):
        assert np.array_equal(before, after)
    assert any(not np.array_equal(*pair) for pair in zip(normalized.images, erased.images, strict=True))
    assert mixed.low < 0 < mixed.high < 8
    # Evaluation's view of 16 x 16 pixels at a size of 16 is the file itself.
    for name, file, evaluated in zip(seen.names, seen.decoded.images, seen.evaluation.images, strict=True):
        assert np.array_equal(file, np.asarray(PIL.Image.open(image_folder / name)))
        assert np.array_equal(file, evaluated)
        assert Path(name).parent.name in result.label_names
    grid = PIL.Image.open(result.folder / "browse.jpg")
    assert grid.size == (8 + 8 * 168, 8 + 8 * 186)
    page = (result.folder / "browse.html").read_text()
    for words in ("8 of 65", "blue, green, red", "mean 110.0, 110.0, 110.0", "alpha 0.8"):
        assert words in page
    assert "http" not in page.split("<script")[0].replace("http-equiv", "")


def test_a_frozen_backbone_sees_images_as_in_evaluation(image_folder, tmp_path):
    recipe = {key: value for key, value in TINY_RECIPE.items() if key != "train_transforms"}
    seen = browse({**recipe, "freeze": "backbone"}, dataset=image_folder, images=3, output=tmp_path / "out").seen
    (stage,) = seen.training
    assert stage.name == "as evaluation" and not seen.is_mixed
    assert all(np.array_equal(*pair) for pair in zip(stage.images, seen.evaluation.images, strict=True))


def test_a_function_and_a_stream_are_watched_too(image_folder, tmp_path):
    from torchvision.transforms import v2

    function = v2.Compose([v2.RandomHorizontalFlip(1.0)])
    recipe = {key: value for key, value in TINY_RECIPE.items() if key != "train_transforms"}
    seen = browse(recipe, dataset=image_folder, train_transforms=function, images=2, output=tmp_path / "a").seen
    assert [stage.name for stage in seen.training] == ["Compose", "normalized"]
    assert np.array_equal(seen.training[0].images[0], seen.decoded.images[0][:, ::-1])
    write_parquet(tmp_path / "shards", "train", 40)
    streamed = browse(TINY_RECIPE, dataset=tmp_path / "shards", streaming=True, images=4, output=tmp_path / "b").seen
    assert [stage.name for stage in streamed.training] == ["RandomCrop", "RandomHorizontalFlip", "normalized"]
    assert all(np.array_equal(*pair) for pair in zip(streamed.decoded.images, streamed.evaluation.images, strict=True))


def test_mistakes_are_one_line(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["browse", "--recipe", str(write_recipe(tmp_path)), "--dataset", str(image_folder), "--images", "1"]
    assert main([*command, "--output", "out"]) == 0
    assert "Written: out/browse.html and out/browse.jpg, 1 images." in capsys.readouterr().out
    assert {path.name for path in Path("out").iterdir()} == {"browse.html", "browse.jpg"}
    too_large = yaml.safe_dump([{"RandomCrop": {"size": 99}}], default_flow_style=True).strip()
    for words, message in (
        (["--output", "out"], "--output: out has a browse.html already; use another folder, or remove the file."),
        (["--output", "tiny.yaml"], "--output: tiny.yaml is a file; use the name of a folder."),
        (["--images", "65"], "--images is 65; use a number from 1 to 64."),
        (
            ["--train_transforms", too_large, "--validation_fraction", "0"],
            "A first batch of images cannot be prepared: ",
        ),
        (["--imagse", "3"], 'There is no flag "--imagse". Did you mean "--images"?'),
    ):
        assert main([*command, *words]) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "tiny.yaml"}
    damaged = bytearray((image_folder / "train/red/00.png").read_bytes())
    damaged[60:160] = bytes(100)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.png").write_bytes(damaged)
    with pytest.raises(UserError, match=r"cannot be read as an image: .*Fix or remove it"):
        browse(TINY_RECIPE, dataset=tmp_path / "data", validation_fraction=0, on_bad_image="skip")
    with pytest.raises(UserError, match="^images is 0; use a number from 1 to 64"):
        browse(dataset="digits", images=0)


@pytest.mark.parametrize("width", [390, 1280])
def test_every_control_of_the_page_works_without_network(browser, image_folder, tmp_path, width):
    result = browse({**TINY_RECIPE, "train_transforms": MIXED}, dataset=image_folder, images=3, output=tmp_path / "o")
    address = (result.folder / "browse.html").as_uri()
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark")
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 25, 29)"
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator(".steps img").count() == 3 * 8
    for link in page.locator("nav a").all():
        link.click()
    headings = page.locator(".sortable th button")
    for number in range(headings.count()):
        headings.nth(number).click()
        assert headings.nth(number).evaluate("button => button.parentElement.getAttribute('aria-sort')")
    # The file stays in sight where the stages are scrolled.
    first = page.locator(".steps tbody tr:first-child td:first-child img")
    page.locator(".whole").evaluate("box => { box.scrollLeft = 300; }")
    assert first.evaluate("image => image.getBoundingClientRect().left") >= 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.pdf(path=tmp_path / "page.pdf")
    assert not problems
    assert [request for request in requests if not request.startswith("data:")] == [address]
    page.close()
