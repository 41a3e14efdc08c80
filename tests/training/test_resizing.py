"""What a run says of images of another shape: what becomes of them, and where training and evaluation differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedConfig, ViTImageProcessor

from hf_finetune.api import _resolve
from hf_finetune.config.data import DataArguments
from hf_finetune.config.resize_mode import training_mode
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.errors import UserError
from hf_finetune.models.processor import default_train_transforms, describe, load_image_processor
from hf_finetune.training.choice import choose_recipe
from hf_finetune.training.given import Given
from hf_finetune.training.resizing import report_resizing

RESIZE = [{"Resize": {"size": [32, 32]}}]
BOX = [{"RandomResizedCrop": {"size": 32}}, "RandomHorizontalFlip"]


def dataset(*sizes: tuple[int, int]) -> ImageDataset:
    data = ImageDataset({}, {}, ["a", "b"], "photos", None)
    data.note_sizes(set(sizes), complete=True)
    return data


def report(data: ImageDataset, **changes: Any) -> list[str]:
    arguments = DataArguments(**{"image_size": 32, **changes})
    processor = load_image_processor(None, PreTrainedConfig(), arguments)
    items = arguments.train_transforms
    if items is None:
        items = default_train_transforms(describe(processor), arguments.resize_mode)
    return report_resizing(training_mode(items), processor, data, arguments)


LONG = dataset((24, 160), (32, 32))


@pytest.mark.parametrize(
    ("items", "mode"),
    [
        (RESIZE, "squash"),
        ([{"ColorJitter": {}}, {"Resize": {"size": 40}}, {"RandomCrop": {"size": 32}}], "crop"),
        ([{"Resize": {"size": [40, 40]}}, {"RandomCrop": {"size": 32}}], "squash"),
        ([{"Letterbox": {"size": 32}}], "pad"),
        (["RandomHorizontalFlip", {"Resize": {"size": 32}}], None),
        ([], None),
    ],
)
def test_a_list_of_transforms_crops_squashes_or_pads(items, mode):
    assert training_mode(items) == mode


def test_squashing_in_training_and_cropping_in_evaluation_is_told():
    first, note = report(LONG, train_transforms=RESIZE)
    assert (
        first
        == "Images: 32 x 32 pixels for the network; training squashes them, evaluation cuts the centre out of them."
    )
    assert note == (
        "Note: training squashes images to 32 x 32, evaluation cuts the centre out of them (it sees 12 % of the"
        " longest): set --resize_mode squash."
    )
    assert len(report(LONG, train_transforms=RESIZE, resize_mode="squash")) == 1


@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_without_transforms_training_does_as_evaluation(mode):
    assert report(LONG, resize_mode=mode) == [
        f"Images: 32 x 32 pixels for the network; training and evaluation {mode} them."
    ]


def test_listed_transforms_that_crop_in_spite_of_the_mode_are_told():
    _, note = report(LONG, train_transforms=BOX, resize_mode="pad")
    assert note == (
        "Note: training cuts parts out of images, evaluation pads them: to train on whole images too, use"
        " --train_transforms null."
    )


def test_a_checkpoint_that_squashes_is_no_reason_for_a_note_unless_images_are_long():
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    photographs = report_resizing("crop", processor, dataset((300, 400), (400, 300)), DataArguments())
    assert len(photographs) == 1
    _, note = report_resizing("crop", processor, LONG, DataArguments())
    assert note.endswith("evaluation squashes them: to train on whole images too, use --resize_mode squash.")


def test_parts_that_are_never_evaluated_are_told():
    _, note = report(LONG)
    assert note == (
        "Note: evaluation cuts the centre out of images (it sees 12 % of the longest): to see them whole, use"
        " --resize_mode squash or --resize_mode pad."
    )
    assert len(report(dataset((300, 400), (400, 300)))) == 1
    assert len(report(dataset((64, 320)), image_size=[32, 160])) == 1  # they have the network's shape


def test_training_as_evaluation_is_told():
    processor = load_image_processor(None, PreTrainedConfig(), DataArguments(image_size=32))
    lines = report_resizing("crop", processor, dataset((30, 40)), DataArguments(), as_evaluated=True)
    assert lines == ["Images: 32 x 32 pixels for the network; training and evaluation cut the centre out of them."]


def test_images_that_have_the_networks_shape_are_neither_cut_nor_padded():
    assert report(dataset((32, 32)), crop_pct=1.0, train_transforms=RESIZE) == [
        "Images: 32 x 32 pixels for the network; they keep their shape."
    ]


def test_borders_of_a_crop_are_told():
    assert "get black borders; use --resize_mode squash" in report(dataset((30, 40)), image_size=[16, 64])[-1]
    assert len(report(dataset((20, 60), (20, 80)), image_size=[16, 48])) == 1


def test_an_image_of_which_padding_leaves_nothing_is_refused():
    with pytest.raises(
        UserError, match=r"^photos: an image is so long \(800 times the shape 32 x 32\) that resize_mode"
    ):
        report(dataset((2, 1600), (10, 10)), resize_mode="pad")
    assert len(report(dataset((2, 1600), (10, 10)), resize_mode="pad", on_bad_image="skip")) == 1  # left out in time
    assert len(report(dataset((2, 64), (64, 2)), resize_mode="pad")) == 1


# ---- a mode that stands over a recipe ----


def items_of(settings: dict[str, Any]) -> Any:
    return choose_recipe("resnet50_imagenet", settings, "--{}".format).values.get("train_transforms")


def test_a_flag_takes_the_place_of_the_recipes_random_crop():
    flip = {"RandomHorizontalFlip": {"p": 0.5}}
    assert items_of({"resize_mode": "squash"}) == [{"Resize": {"size": [224, 224]}}, flip]
    assert items_of({"resize_mode": "pad", "image_size": 32}) == [{"Letterbox": {"size": [32, 32]}}, flip]
    assert items_of({"resize_mode": "squash", "image_size": [32, 16]}) == [{"Resize": {"size": [32, 16]}}, flip]


def test_listed_transforms_stay_where_the_flag_stands_beside_them():
    assert items_of({"resize_mode": "squash", "train_transforms": BOX}) == BOX
    assert items_of({"resize_mode": "squash", "train_transforms": None}) is None
    assert items_of({"resize_mode": "crop"}) == items_of({}) == [
        {"RandomResizedCrop": {"size": 224}}, {"RandomHorizontalFlip": {"p": 0.5}},
    ]  # fmt: skip


FLIP = {"RandomHorizontalFlip": {"p": 0.5}}


def resolved_files(folder: Path, **files: str) -> Any:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return choose_recipe(str(folder / f"{name}.yaml"), {}, "--{}".format).values.get("train_transforms")


def test_a_file_over_the_list_takes_the_place_of_its_random_crop(tmp_path, logged):
    assert resolved_files(tmp_path, mine="_base_: resnet50_imagenet\nresize_mode: pad\n") == [
        {"Letterbox": {"size": [224, 224]}}, FLIP,
    ]  # fmt: skip
    assert logged == [
        f"resize_mode pad ({tmp_path}/mine.yaml): Letterbox takes the place of RandomResizedCrop in the recipe's"
        " transforms."
    ]
    base = "_base_: resnet50_imagenet\nresize_mode: pad\nimage_size: 32\n"
    assert resolved_files(tmp_path, base=base, mine="_base_: base.yaml\nresize_mode: squash\n") == [
        {"Resize": {"size": [32, 32]}}, FLIP,
    ]  # fmt: skip
    assert resolved_files(tmp_path, mine="_base_: resnet50_imagenet\nresize_mode: crop\n") == items_of({})


@pytest.mark.parametrize(
    ("listed", "mode", "expected"),
    [
        ("{Letterbox: {size: [32, 16]}}", "crop", {"RandomResizedCrop": {"size": [32, 16]}}),
        (
            "{Letterbox: {size: [32, 16], interpolation: bicubic}}",
            "squash",
            {"Resize": {"size": [32, 16], "interpolation": "bicubic"}},
        ),
        ("{Resize: {size: [32, 16]}}", "pad", {"Letterbox": {"size": [32, 16]}}),
        ("{Resize: {size: [32, 16]}}", "squash", {"Resize": {"size": [32, 16]}}),
        ("{RandomCrop: {size: 32}}", "pad", {"RandomCrop": {"size": 32}}),  # not alone a question of shape: a note
        ("{Resize: {size: 32}}", "pad", {"Resize": {"size": 32}}),
        *[
            (text, "pad", wrong)
            for text, wrong in (  # mistakes, which are told where all are
                ("{RandomResizedCrop: 8}", {"RandomResizedCrop": 8}),
                ("{RandomResizedCrop: {}}", {"RandomResizedCrop": {}}),
                ("{}", {}),
            )
        ],
    ],
)
def test_a_mode_over_the_list_takes_the_place_of_any_step_to_the_networks_shape(listed, mode, expected, tmp_path):
    files = {"base": f"train_transforms: [{listed}, RandomHorizontalFlip]\n"}
    result = resolved_files(tmp_path, **files, mine=f"_base_: base.yaml\nresize_mode: {mode}\n")
    assert result == [expected, "RandomHorizontalFlip"]


def test_a_list_that_stands_beside_or_over_the_mode_stays(tmp_path, logged):
    listed = "train_transforms: [{RandomResizedCrop: {size: 32}}, RandomHorizontalFlip]\n"
    assert resolved_files(tmp_path, mine=f"_base_: resnet50_imagenet\nresize_mode: pad\n{listed}") == BOX
    assert resolved_files(tmp_path, base="resize_mode: pad\n", mine=f"_base_: base.yaml\n{listed}") == BOX
    assert not logged


def test_a_mapping_over_a_recipe_is_as_a_file_over_it():
    assert items_of_mapping({"_base_": "resnet50_imagenet", "resize_mode": "squash"}) == [
        {"Resize": {"size": [224, 224]}},
        FLIP,
    ]
    assert items_of_mapping({"_base_": "resnet50_imagenet", "resize_mode": "squash", "train_transforms": BOX}) == BOX


def items_of_mapping(recipe: dict[str, Any]) -> Any:
    return _resolve({"dataset": "digits", **recipe}, {}, Given()).values["train_transforms"]
