"""Transforms of albumentations by name, such as `A.HorizontalFlip`, which the extra of that name installs.

albumentations draws from generators of NumPy and Python that it keeps itself. Each image gives them a seed from torch's
generator, which `TrainTransforms.apply_to_image` seeds with the draw key. So these draws too are the example's own.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from hf_finetune.data.transforms.stated import check_arguments, name_and_arguments
from hf_finetune.errors import UserError, did_you_mean, first_line

PREFIX = "A."
# Those that give all images one size, where they are always applied.
_SIZE_FIXING = ("CenterCrop", "Crop", "RandomCrop", "RandomResizedCrop", "RandomSizedCrop", "Resize")
_SEEDS = 2**63 - 1


class AlbumentationsTransform(v2.Transform):
    """Applies a transform of albumentations to one image."""

    def __init__(self, name: str, transform: Any) -> None:
        """Keep a transform.

        Args:
            name: What a recipe calls it.
            transform: The transform of albumentations.
        """
        super().__init__()
        self.name, self.transform = name, transform

    @property
    def fixes_size(self) -> bool:
        """Whether it gives all images one size."""
        return self.name.removeprefix(PREFIX) in _SIZE_FIXING and bool(self.transform.p == 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return a uint8 image of shape (3, height, width) after the transform.

        Raises:
            UserError: The transform cannot take the image, or does not return one of this kind.
        """
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        return torch.from_numpy(self.changed(pixels, int(torch.randint(_SEEDS, ())))).permute(2, 0, 1)

    def changed(self, pixels: np.ndarray, seed: int, **options: bool) -> np.ndarray:
        """Return pixels, uint8 of shape (height, width, 3), after the transform.

        Args:
            pixels: As they are, of the same dtype and kind of shape.
            seed: What the draws depend on.
            **options: Of the call of albumentations.

        Raises:
            UserError: As `forward`.
        """
        self.transform.set_random_seed(seed)
        try:
            result = self.transform(image=pixels, **options)["image"]
        except Exception as error:  # each of a hundred transforms has its own
            raise UserError(f"train_transforms: {self.name}: {_reason(error)}") from error
        if not isinstance(result, np.ndarray) or result.dtype != np.uint8 or result.shape[2:] != (3,):
            kind = f"{getattr(result, 'dtype', type(result).__name__)} of shape {tuple(getattr(result, 'shape', ()))}"
            raise UserError(
                f"train_transforms: {self.name} gives {kind}, and images stay uint8 of three channels; leave it out:"
                " they are converted and normalized after the list."
            )
        return np.ascontiguousarray(result)


def albumentations_transform(name: str, arguments: Mapping[str, Any]) -> AlbumentationsTransform:
    """Return a transform by its name, after a trial.

    Args:
        name: `A.` and the name of a class of albumentations.
        arguments: Its arguments; `transforms` is a list of names, or of names with their arguments.

    Raises:
        UserError: albumentations is not installed, it has no such transform, or an argument is wrong.
    """
    transform = AlbumentationsTransform(name, _build(name, arguments, _library()))
    try:
        transform.changed(np.full((256, 256, 3), 128, np.uint8), seed=0, force_apply=True)
    except UserError as error:
        if type(error.__cause__).__name__ != "CropSizeError":  # the images may be larger
            raise
    return transform


def _library() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a server for its newest version
    try:
        library = importlib.import_module("albumentations")
    except ImportError as error:
        raise UserError(
            "train_transforms: A.NAME is a transform of albumentations, which is not installed; install it with:"
            " pip install 'hf-finetune[albumentations]'"
        ) from error
    # Threads of OpenCV do not survive that loader workers are forked, and these are as many as there are cores.
    importlib.import_module("cv2").setNumThreads(0)
    return library


def _build(name: str, arguments: Mapping[str, Any], library: Any) -> Any:
    classes = {
        PREFIX + own: member
        for own, member in vars(library).items()
        if inspect.isclass(member) and issubclass(member, (library.BasicTransform, library.BaseCompose))
    }
    if name not in classes:
        raise UserError(
            f'train_transforms: "{name}" is not a transform of albumentations.{did_you_mean(name, classes)}'
            f" Its version here is {library.__version__}."
        )
    check_arguments(name, classes[name], arguments)
    arguments = dict(arguments)
    if isinstance(arguments.get("transforms"), list):  # of OneOf, SomeOf, Sequential and others
        arguments["transforms"] = [_inner(name, item, library) for item in arguments["transforms"]]
    try:
        return classes[name](**arguments)
    except Exception as error:  # pydantic's, and what each class raises
        raise UserError(f"train_transforms: {name}: {_reason(error)}") from error


def _inner(name: str, item: Any, library: Any) -> Any:
    own, arguments = name_and_arguments(item) or (None, {})
    if not str(own).startswith(PREFIX) or not isinstance(arguments, Mapping):
        raise UserError(f"train_transforms: {name} holds {item!r}; use transforms of albumentations, such as A.Blur.")
    return _build(str(own), arguments, library)


def _reason(error: Exception) -> str:
    """Return one line of an error; of pydantic's the argument and what is wrong with it."""
    lines = str(error).splitlines()
    if len(lines) > 2 and "validation error" in lines[0]:
        return f"{lines[1]}: {lines[2].strip().partition(' [type=')[0]}."
    return first_line(error)
