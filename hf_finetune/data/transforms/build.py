"""A recipe's `train_transforms`, cut once into a part for single images and a part for whole batches.

What must see one image at a time runs in the loader's workers and yields uint8; what can run on a batch runs once per
batch on the training device. So the images cross to the device as uint8 and at the smallest size there is.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from hf_finetune.data.images.pixels import decode_pixels
from hf_finetune.data.transforms.batch import BATCH_TRANSFORMS, BatchTransform, RandomErasing
from hf_finetune.data.transforms.mixing import MIXING_TRANSFORMS, Mixing
from hf_finetune.data.transforms.rand_augment import IncreasingRandAugment
from hf_finetune.data.transforms.reduced_decoding import ReducedRandomResizedCrop, ReducedResize
from hf_finetune.errors import UserError, did_you_mean, first_line

# Transforms after which all images have one size, whatever they had before.
_SIZE_FIXING = ("CenterCrop", "RandomCrop", "RandomResizedCrop", "Resize")
_SMOOTH = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
_INTERPOLATIONS = {mode.value: mode for mode in InterpolationMode}
# They change what is not an image, so no place in a list of image transforms can hold them.
_NOT_FOR_IMAGES = ("ToTensor", "ToImage", "ToDtype", "PILToTensor", "ToPILImage", "Normalize")


@dataclass(frozen=True)
class TrainTransforms:
    """The parts of a list of training transforms.

    `decoding` is a first transform that decodes no more of an image than it keeps, None where whole images are
    needed. `single` are transforms of one uint8 tensor of shape (channels, height, width); `batch` are transforms of a
    batch of them, all of one size, with the samples' draw keys. `mixing` mixes the images of a normalized batch, None
    where each stays itself; `erasing` erases with noise before that, which is of normalized pixels too.
    """

    single: tuple[v2.Transform, ...]
    batch: tuple[BatchTransform, ...]
    decoding: ReducedRandomResizedCrop | ReducedResize | None = None
    erasing: RandomErasing | None = None
    mixing: Mixing | None = None

    def decode(self, values: Sequence[Any], keys: torch.Tensor) -> list[torch.Tensor]:
        """Returns encoded images as uint8 of shape (channels, height, width). Raises `UnreadableImage`."""
        if self.decoding is not None:
            return self.decoding(values, keys)
        return [decode_pixels(value) for value in values]

    def apply_to_image(self, image: torch.Tensor, key: int) -> torch.Tensor:
        """Returns the uint8 image after the second part. Its random draws depend on `key` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            for transform in self.single:
                image = transform(image)
        return image

    def apply_to_batch(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Returns the batch, (batch, channels, height, width), after the last part."""
        for transform in self.batch:
            images = transform(images, keys)
        return images

    def apply_to_normalized(
        self, images: torch.Tensor, labels: torch.Tensor, keys: torch.Tensor, num_labels: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns a normalized batch and its labels after what is done last; labels are `Mixing`'s where it mixes."""
        if self.erasing is not None:
            images = self.erasing(images, keys)
        return (images, labels) if self.mixing is None else self.mixing(images, labels, keys, num_labels)


NO_TRANSFORMS = TrainTransforms(single=(), batch=())


def _build_transform(item: Any) -> v2.Transform:
    if isinstance(item, str):
        name, arguments = item, {}
    elif isinstance(item, Mapping) and len(item) == 1:
        name, arguments = next(iter(item.items()))
        arguments = arguments or {}
    else:
        raise UserError(
            f"train_transforms: {item!r} is not a transform; use a name with its arguments,"
            " such as - RandomCrop: {size: 32, padding: 4}"
        )
    known = {
        name: member
        for name, member in {**vars(v2), "IncreasingRandAugment": IncreasingRandAugment}.items()
        if inspect.isclass(member) and issubclass(member, v2.Transform) and name not in _NOT_FOR_IMAGES
    }
    if name == "Normalize":
        raise UserError("train_transforms: Normalize is always applied last; use its figures as image_mean, image_std.")
    if name not in known:
        raise UserError(
            f'train_transforms: "{name}" is not an image transform of torchvision.transforms.v2.'
            f"{did_you_mean(str(name), known)}"
        )
    if not isinstance(arguments, Mapping):
        raise UserError(f"train_transforms: the arguments of {name} are a mapping, such as {{size: 224}}.")
    arguments = dict(arguments)
    if isinstance(arguments.get("transforms"), list):  # of RandomApply, RandomChoice and RandomOrder
        arguments["transforms"] = [_build_transform(inner) for inner in arguments["transforms"]]
    if isinstance(arguments.get("interpolation"), str):
        mode = arguments["interpolation"]
        if mode not in _INTERPOLATIONS:
            raise UserError(
                f'train_transforms: {name} has no interpolation "{mode}"; the modes are {", ".join(_INTERPOLATIONS)}.'
            )
        arguments["interpolation"] = _INTERPOLATIONS[mode]
    parameters = list(inspect.signature(known[name].__init__).parameters)[1:]
    for argument in arguments:
        if argument not in parameters:
            raise UserError(
                f'train_transforms: {name} has no argument "{argument}".{did_you_mean(argument, parameters)}'
                f" Its arguments are {', '.join(parameters)}."
            )
    alpha = arguments.get("alpha", 1.0) if name in MIXING_TRANSFORMS else 1.0
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise UserError(f"train_transforms: the alpha of {name} is {alpha!r}; use a number above 0.")
    try:
        transform = known[name](**arguments)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"train_transforms: {name}: {first_line(error)}") from error
    if isinstance(getattr(transform, "interpolation", None), str):  # torchvision's defaults are words in some versions
        transform.interpolation = InterpolationMode(transform.interpolation)
    return transform


def _runs_on_batches(transform: v2.Transform) -> bool:
    name = type(transform).__name__
    if name == "RandomResizedCrop":
        return transform.antialias is not False and transform.interpolation in _SMOOTH
    if name == "RandomCrop":
        return not isinstance(transform.fill, dict)
    return name in BATCH_TRANSFORMS


def build_train_transforms(items: Sequence[Any], uniform: bool) -> TrainTransforms:
    """Builds and cuts a list of torchvision.transforms.v2 names with their arguments.

    `uniform` says that all images have one size, and a small one. Where they have not, the first part reaches to the
    transform that gives them one. Raises `UserError` for a name, an argument or a value that torchvision does not take,
    and for a list that leaves images of different sizes.
    """
    transforms = [_build_transform(item) for item in items]
    mixing = _mixing(transforms[-1], stream=len(transforms) - 1) if transforms else None
    transforms = transforms[:-1] if mixing else transforms
    if any(_mixes(transform) for transform in transforms):
        raise UserError(
            "train_transforms: MixUp and CutMix mix whole batches: write one, or a RandomChoice of them, as the last of"
            " the list."
        )
    erasing = None
    if transforms and _erases_with_noise(transforms[-1]):
        erasing = RandomErasing(transforms.pop(), stream=len(transforms))
    if any(map(_erases_with_noise, transforms)):
        raise UserError(
            "train_transforms: RandomErasing with the value random fills with noise of normalized pixels; use it"
            " last, or before MixUp and CutMix."
        )
    first_part = 0
    for position, transform in enumerate(transforms):
        if not _runs_on_batches(transform):
            first_part = position + 1
    if not uniform:
        fixing = [position for position, transform in enumerate(transforms) if _fixes_size(transform)]
        if not fixing:
            raise UserError(
                "train_transforms: the images differ in size and no transform gives them one;"
                " add RandomResizedCrop: {size: 224} or Resize: {size: [224, 224]}."
            )
        first_part = max(first_part, fixing[0] + 1)
    decoding = None if uniform else _reduced(transforms[0])
    return TrainTransforms(
        decoding=decoding,
        erasing=erasing,
        mixing=mixing,
        single=tuple(transforms[1 if decoding else 0 : first_part]),
        batch=tuple(
            BATCH_TRANSFORMS[type(transform).__name__](transform, stream=position)
            for position, transform in enumerate(transforms)
            if position >= first_part
        ),
    )


def _erases_with_noise(transform: v2.Transform) -> bool:
    return isinstance(transform, v2.RandomErasing) and transform.value is None


def _mixes(transform: v2.Transform) -> bool:
    """Says whether a transform is, or holds, one that mixes images."""
    inner = getattr(transform, "transforms", None) or ()
    return type(transform).__name__ in MIXING_TRANSFORMS or any(map(_mixes, inner))


def _mixing(transform: v2.Transform, stream: int) -> Mixing | None:
    """Returns the last transform of a list as what mixes batches, None if it changes each image by itself.

    Raises `UserError` where it mixes in a way that is more than a choice.
    """
    if not _mixes(transform):
        return None
    if type(transform).__name__ in MIXING_TRANSFORMS:
        return Mixing([transform], [1.0], stream)
    if isinstance(transform, v2.RandomChoice):
        allowed = (*MIXING_TRANSFORMS, "Identity")
        if all(type(inner).__name__ in allowed for inner in transform.transforms):
            return Mixing(transform.transforms, transform.p, stream)
    raise UserError(
        "train_transforms: MixUp and CutMix stand alone, or with each other and Identity in a RandomChoice, such as"
        " - RandomChoice: {transforms: [MixUp, CutMix]}"
    )


def _reduced(transform: v2.Transform) -> ReducedRandomResizedCrop | ReducedResize | None:
    """Returns what decodes an image for this first transform, None where the whole image is needed."""
    if isinstance(transform, v2.RandomResizedCrop) and _runs_on_batches(transform):
        return ReducedRandomResizedCrop(transform, stream=0)
    if isinstance(transform, v2.Resize) and transform.max_size is None and transform.interpolation in _SMOOTH:
        return ReducedResize(transform) if transform.size is not None and transform.antialias is not False else None
    return None


def _fixes_size(transform: v2.Transform) -> bool:
    name = type(transform).__name__
    if name == "Resize":  # one number resizes the short side and leaves the long one as it falls
        return transform.size is not None and len(transform.size) == 2
    return name in _SIZE_FIXING
