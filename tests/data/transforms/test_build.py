"""The declared list of training transforms: what it accepts, where it is cut, and its mistakes."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from hf_finetune.data.transforms import build
from hf_finetune.data.transforms.batch import BATCH_TRANSFORMS
from hf_finetune.data.transforms.batched import BatchTransform
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.data.transforms.randomness import draw_keys
from hf_finetune.data.transforms.reduced_decoding import ReducedRandomResizedCrop
from hf_finetune.errors import UserError


def _names(transforms) -> tuple[list[str], list[str]]:
    return (
        [type(transform).__name__ for transform in transforms.single],
        [type(transform.transform).__name__ for transform in transforms.batch],
    )


def test_batchable_transforms_of_uniform_images_all_run_on_the_batch():
    items = [
        {"RandomCrop": {"size": 32, "padding": 4}},
        {"RandomHorizontalFlip": {"p": 0.5}},
        {"Resize": {"size": 64}},
    ]
    assert _names(build_train_transforms(items, uniform=True)) == (
        [],
        ["RandomCrop", "RandomHorizontalFlip", "Resize"],
    )


def test_a_transform_of_single_images_takes_all_before_it_along():
    items = [{"RandomCrop": {"size": 32, "padding": 4}}, "AugMix", "RandomHorizontalFlip"]
    assert _names(build_train_transforms(items, uniform=True)) == (
        ["RandomCrop", "AugMix"],
        ["RandomHorizontalFlip"],
    )


def test_images_of_mixed_size_are_made_equal_one_by_one():
    items = [{"RandomResizedCrop": {"size": 16}}, {"RandomHorizontalFlip": None}]
    transforms = build_train_transforms(items, uniform=False)
    assert isinstance(transforms.decoding, ReducedRandomResizedCrop)
    assert _names(transforms) == ([], ["RandomHorizontalFlip"])
    assert _names(build_train_transforms(items, uniform=True)) == ([], ["RandomResizedCrop", "RandomHorizontalFlip"])


@pytest.mark.parametrize(
    "first",
    [
        {"RandomCrop": {"size": 16, "pad_if_needed": True}},
        {"RandomResizedCrop": {"size": 16, "interpolation": "nearest"}},
        {"Resize": {"size": [16, 16], "antialias": False}},
        {"Resize": {"size": 16, "max_size": 20}},
    ],
)
def test_other_first_transforms_see_the_whole_image(first):
    transforms = build_train_transforms([first, {"CenterCrop": {"size": 8}}], uniform=False)
    assert transforms.decoding is None and _names(transforms)[0][0] == next(iter(first))


def test_what_runs_on_batches_runs_alone_on_images_of_mixed_size():
    items = ["RandAugment", {"ColorJitter": {"hue": 0.2}}, {"RandomResizedCrop": {"size": 16}}, "RandomGrayscale"]
    transforms = build_train_transforms(items, uniform=False)
    assert _names(transforms) == (["RandAugment", "ColorJitter", "RandomResizedCrop"], ["RandomGrayscale"])
    assert _names(build_train_transforms(items, uniform=True))[0] == []


def test_every_batch_transform_draws_from_a_stream_of_its_own():
    transforms = build_train_transforms(["RandomHorizontalFlip", "RandomHorizontalFlip"], uniform=True)
    assert [transform.stream for transform in transforms.batch] == [0, 1]


def test_single_image_draws_depend_on_the_key_alone():
    transforms = build_train_transforms(["AugMix"], uniform=True)
    image = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keys = draw_keys(0, 0, torch.arange(8)).tolist()
    torch.manual_seed(1)
    first = [transforms.apply_to_image(image, key) for key in keys]
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = [transforms.apply_to_image(image, key) for key in reversed(keys)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({tuple(result.flatten().tolist()) for result in first}) > 4
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # the process's own generator is left as it was


def test_interpolation_is_written_as_a_word():
    transforms = build_train_transforms([{"Resize": {"size": 8, "interpolation": "nearest"}}], uniform=True)
    assert transforms.batch[0].transform.interpolation.value == "nearest"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            ["RandomCropp"],
            '"RandomCropp" is not an image transform of torchvision.transforms.v2. Did you mean "RandomCrop"?',
        ),
        ([{"Resize": {"sise": 3}}], 'Resize has no argument "sise". Did you mean "size"?'),
        ([{"Resize": {"size": 8, "interpolation": "bilinaer"}}], 'no interpolation "bilinaer"'),
        ([{"RandomHorizontalFlip": {"p": 2}}], "RandomHorizontalFlip:"),
        ([{"RandomCrop": {}}], "RandomCrop:"),
        (["Normalize"], "Normalize is always applied last"),
        ([{"Resize": [8]}], "the arguments of Resize are a mapping"),
        ([17], "17 is not a transform"),
        (
            [{"RandomErasing": {"value": "random"}}, "RandomHorizontalFlip"],
            "use it last, or before MixUp and CutMix",
        ),
        (["ToTensor"], '"ToTensor" is not an image transform'),
    ],
)
def test_mistakes_are_one_line(items, message):
    with pytest.raises(UserError) as error:
        build_train_transforms(items, uniform=True)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("train_transforms: ")


def test_images_left_in_different_sizes_are_refused():
    with pytest.raises(UserError, match="differ in size and no transform gives them one"):
        build_train_transforms([{"Resize": {"size": 8}}, "RandomHorizontalFlip"], uniform=False)


class Darken(v2.Transform):
    """A toy transform of single images."""

    def __init__(self, by: int = 1) -> None:
        super().__init__()
        self.by = by

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image - self.by


class DarkenBatch(BatchTransform):
    """The same for batches, but for odd differences."""

    @classmethod
    def supports(cls, transform: Darken) -> bool:
        return transform.by % 2 == 0

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return images - self.transform.by


def test_a_transform_costs_a_line_in_a_table(monkeypatch):
    monkeypatch.setitem(build.OWN_TRANSFORMS, "Darken", Darken)
    assert "Darken" in build.known_transforms()
    image = torch.full((3, 2, 2), 9, dtype=torch.uint8)
    keys = torch.zeros(1, dtype=torch.int64)

    transforms = build_train_transforms([{"Darken": {"by": 4}}], uniform=True)
    assert transforms.apply_to_image(image, 0).unique().tolist() == [5] and not transforms.batch

    monkeypatch.setitem(BATCH_TRANSFORMS, "Darken", DarkenBatch)
    transforms = build_train_transforms([{"Darken": {"by": 4}}], uniform=True)
    assert transforms.apply_to_batch(image[None], keys).unique().tolist() == [5] and not transforms.single
    assert build_train_transforms([{"Darken": {"by": 3}}], uniform=True).batch == ()
    with pytest.raises(UserError, match=r'Did you mean "Darken"\?'):
        build_train_transforms(["Darkem"], uniform=True)
