"""A recipe's `train_transforms`, split into a part for single images and a part for whole batches.

Transforms that need single images run in the loader's workers and return uint8. All transforms after the last of them
run once per batch on the training device. So images are transferred as uint8, and before they are enlarged.

Names of albumentations begin with `A.`; they are of single images. A new transform costs a class and a line in
`OWN_TRANSFORMS`; its version for whole batches, a class and a line in `batch.BATCH_TRANSFORMS`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2

from hf_finetune.data.images.decoding import AS_STORED, Decoding
from hf_finetune.data.images.pixels import pixels_reader
from hf_finetune.data.transforms.albumentations_names import PREFIX, AlbumentationsTransform, albumentations_transform
from hf_finetune.data.transforms.alternating_flip import AlternatingHorizontalFlip
from hf_finetune.data.transforms.batch import BATCH_TRANSFORMS, SMOOTH, RandomErasing
from hf_finetune.data.transforms.batched import BatchTransform
from hf_finetune.data.transforms.for_channels import BATCHED_FOR_CHANNELS, check_for_channels
from hf_finetune.data.transforms.grid_mask import GridMask
from hf_finetune.data.transforms.letterbox import Letterbox
from hf_finetune.data.transforms.mixing import MIXING_TRANSFORMS, Mixing
from hf_finetune.data.transforms.rand_augment import IncreasingRandAugment
from hf_finetune.data.transforms.reduced_decoding import ReducedLetterbox, ReducedRandomResizedCrop, ReducedResize
from hf_finetune.data.transforms.stated import check_arguments, name_and_arguments
from hf_finetune.errors import UserError, did_you_mean, first_line

# The transforms of this package, beside those of torchvision.transforms.v2.
OWN_TRANSFORMS: dict[str, type[v2.Transform]] = {
    "AlternatingHorizontalFlip": AlternatingHorizontalFlip,
    "GridMask": GridMask,
    "IncreasingRandAugment": IncreasingRandAugment,
    "Letterbox": Letterbox,
}
# Transforms that give all images one size.
_SIZE_FIXING = ("CenterCrop", "Letterbox", "RandomCrop", "RandomResizedCrop", "Resize")
_INTERPOLATIONS = {mode.value: mode for mode in InterpolationMode}
# A first transform that decodes no more of an image than it needs.
FirstTransform = ReducedRandomResizedCrop | ReducedResize | ReducedLetterbox
# They convert from or to something other than uint8 images, so they fit nowhere in the list.
_NOT_FOR_IMAGES = ("ToTensor", "ToImage", "ToDtype", "PILToTensor", "ToPILImage", "Normalize")


@dataclass(frozen=True)
class TrainTransforms:
    """The parts of a list of training transforms, in the order in which they run.

    Attributes:
        decoding: A first transform that decodes only as much of an image as it keeps; None to decode whole images.
        single: Transforms of one uint8 image of shape (channels, height, width).
        batch: Transforms of a batch of images of one size.
        erasing: Erases with noise in a normalized batch; None without.
        mixing: Mixes the images of a normalized batch; None without.
        observer: Called after each step with what has done it and the images, one or a batch; it may not change them.
            None for nobody.
    """

    single: tuple[v2.Transform, ...]
    batch: tuple[BatchTransform, ...]
    decoding: FirstTransform | None = None
    erasing: RandomErasing | None = None
    mixing: Mixing | None = None
    observer: Callable[[object, torch.Tensor], None] | None = None

    def tell(self, step: object, images: torch.Tensor) -> None:
        """Show the observer, if there is one, the images after a step."""
        if self.observer is not None:
            self.observer(step, images)

    @property
    def alternates(self) -> bool:
        """Whether the lowest bit of the draw keys is to change from epoch to epoch (`alternating_keys`)."""
        transforms = (*self.single, *(batched.transform for batched in self.batch))
        return any(isinstance(transform, AlternatingHorizontalFlip) for transform in transforms)

    def decode(self, values: Sequence[Any], keys: torch.Tensor, how: Decoding = AS_STORED) -> list[torch.Tensor]:
        """Decode images.

        Args:
            values: Images as `decoding.OpenImage` takes them.
            keys: The examples' draw keys, int64 of shape (batch,).
            how: What decides the pixels beside the files.

        Returns:
            uint8 tensors of shape (channels, height, width), after the transform that is part of decoding; float32 of
            images that are read as they are stored.

        Raises:
            UnreadableImage: An image cannot be decoded.
        """
        if self.decoding is not None:
            images = self.decoding(values, keys, how)
            for image in images:
                self.tell(self.decoding, image)
            return images
        return list(map(pixels_reader(how), values))

    def apply_to_image(self, image: torch.Tensor, key: int) -> torch.Tensor:
        """Return a uint8 image after the transforms of single images, whose draws depend on `key` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            for transform in self.single:
                image = transform(image)
                self.tell(transform, image)
        return image

    def apply_to_batch(self, images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return a uint8 batch of shape (batch, channels, height, width) after the transforms of batches."""
        for transform in self.batch:
            images = transform(images, keys)
            self.tell(transform, images)
        return images

    def apply_to_normalized(
        self, images: torch.Tensor, labels: torch.Tensor, keys: torch.Tensor, num_labels: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Erase and mix in a normalized batch.

        Args:
            images: Floats of shape (batch, channels, height, width).
            labels: Class ids, int64 of shape (batch,), or several for each image (`stages.as_labels`).
            keys: The examples' draw keys, int64 of shape (batch,).
            num_labels: The number of classes.

        Returns:
            The images and the labels; where images are mixed, the labels are `Mixing`'s targets.
        """
        if self.erasing is not None:
            images = self.erasing(images, keys)
            self.tell(self.erasing, images)
        if self.mixing is not None:
            images, labels = self.mixing(images, labels, keys, num_labels)
            self.tell(self.mixing, images)
        return images, labels


NO_TRANSFORMS = TrainTransforms(single=(), batch=())


def known_transforms() -> dict[str, type[v2.Transform]]:
    """Return the transforms that a recipe can name: those of torchvision.transforms.v2 and `OWN_TRANSFORMS`."""
    return {
        name: member
        for name, member in {**vars(v2), **OWN_TRANSFORMS}.items()
        if inspect.isclass(member) and issubclass(member, v2.Transform) and name not in _NOT_FOR_IMAGES
    }


def _build_transform(item: Any) -> v2.Transform:
    stated = name_and_arguments(item)
    if stated is None:
        raise UserError(
            f"train_transforms: {item!r} is not a transform; use a name with its arguments,"
            " such as - RandomCrop: {size: 32, padding: 4}"
        )
    name, arguments = stated
    if not isinstance(arguments, Mapping):
        raise UserError(f"train_transforms: the arguments of {name} are a mapping, such as {{size: 224}}.")
    if str(name).startswith(PREFIX):
        return albumentations_transform(name, arguments)
    known = known_transforms()
    if name == "Normalize":
        raise UserError("train_transforms: Normalize is always applied last; use its figures as image_mean, image_std.")
    if name not in known:
        raise UserError(
            f'train_transforms: "{name}" is not an image transform of torchvision.transforms.v2.'
            f"{did_you_mean(str(name), known)}"
        )
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
    check_arguments(name, known[name], arguments)
    alpha = arguments.get("alpha", 1.0) if name in MIXING_TRANSFORMS else 1.0
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise UserError(f"train_transforms: the alpha of {name} is {alpha!r}; use a number above 0.")
    try:
        transform: Any = known[name](**arguments)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"train_transforms: {name}: {first_line(error)}") from error
    if isinstance(getattr(transform, "interpolation", None), str):  # the defaults of some versions of torchvision
        transform.interpolation = InterpolationMode(transform.interpolation)
    return transform


def _runs_on_batches(transform: v2.Transform, channels: int | None = None) -> bool:
    batched = BATCH_TRANSFORMS.get(type(transform).__name__)
    if channels is not None and type(transform).__name__ not in BATCHED_FOR_CHANNELS:
        return False
    return batched is not None and batched.supports(transform)


def build_train_transforms(items: Sequence[Any], uniform: bool, channels: int | None = None) -> TrainTransforms:
    """Build a list of transforms and split it.

    Args:
        items: Names of `known_transforms`, or mappings of one name to its arguments.
        uniform: Whether all images have one small size (`ImageDataset.uniform`). If not, all transforms up to the one
            that gives them one size run on single images.
        channels: How many channels images have that are read as they are stored; None for RGB.

    Returns:
        The parts.

    Raises:
        UserError: A name, an argument or a value is not torchvision's, the list leaves images of different sizes, or a
            transform is for RGB alone.
    """
    transforms = [_build_transform(item) for item in items]
    if channels is not None:
        check_for_channels(transforms, channels)
    mixing = _mixing(transforms[-1], stream=len(transforms) - 1) if transforms else None
    transforms = transforms[:-1] if mixing else transforms
    if any(_mixes(transform) for transform in transforms):
        raise UserError(
            "train_transforms: MixUp and CutMix mix whole batches; use one, or a RandomChoice of them, as the last of"
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
        if not _runs_on_batches(transform, channels):
            first_part = position + 1
    if not uniform:
        fixing = [position for position, transform in enumerate(transforms) if _fixes_size(transform)]
        if not fixing:
            raise UserError(
                "train_transforms: the images differ in size and no transform gives them one;"
                " add RandomResizedCrop: {size: 224} or Resize: {size: [224, 224]}."
            )
        first_part = max(first_part, fixing[0] + 1)
    decoding = None if uniform or channels is not None else _reduced(transforms[0])
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
    """Whether a transform is, or contains, one that mixes images."""
    inner = getattr(transform, "transforms", None) or ()
    return type(transform).__name__ in MIXING_TRANSFORMS or any(map(_mixes, inner))


def _mixing(transform: v2.Transform, stream: int) -> Mixing | None:
    """Return the last transform of a list as `Mixing`, None where it does not mix images.

    Raises `UserError` where it mixes, but is no choice of mixing transforms.
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


def _reduced(transform: v2.Transform) -> FirstTransform | None:
    """Return what decodes images for a first transform at a reduced scale, None where it needs whole images."""
    if isinstance(transform, v2.RandomResizedCrop) and _runs_on_batches(transform):
        return ReducedRandomResizedCrop(transform, stream=0)
    if isinstance(transform, Letterbox) and transform.interpolation in SMOOTH:
        return ReducedLetterbox(transform)
    if isinstance(transform, v2.Resize) and transform.max_size is None and transform.interpolation in SMOOTH:
        return ReducedResize(transform) if transform.size is not None and transform.antialias is not False else None
    return None


def _fixes_size(transform: v2.Transform) -> bool:
    if isinstance(transform, AlbumentationsTransform):
        return transform.fixes_size
    name = type(transform).__name__
    if isinstance(transform, v2.Resize):  # one number is the short side; the long side differs between images
        return transform.size is not None and len(transform.size) == 2
    return name in _SIZE_FIXING
