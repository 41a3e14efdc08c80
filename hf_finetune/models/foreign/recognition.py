"""Recognizes the network that a state dict belongs to by the names and shapes of its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from hf_finetune.errors import UserError
from hf_finetune.models.foreign.convnext import CONVNEXT
from hf_finetune.models.foreign.naming import Family, Misfit, Naming, Placement, tensor_of
from hf_finetune.models.foreign.reading import StateDict, read_state_dict
from hf_finetune.models.foreign.resnet import RESNET, RESNEXT
from hf_finetune.models.foreign.swin import SWIN
from hf_finetune.models.foreign.vit import VIT

FAMILIES = (RESNET, RESNEXT, VIT, CONVNEXT, SWIN)
# Layers between the backbone and the classifier, or in place of the classifier in pretraining (MAE's decoder, MoCo's
# projector). Transformers' classifiers have none of them, so the head is left out as well.
_BEFORE_HEAD = re.compile(r"(?:^|\.)pre_logits\.|^neck\.|^head\.predictor\.|^momentum_encoder\.")


@dataclass(frozen=True)
class ForeignWeights:
    """Weights of another library in the layout of Transformers.

    Attributes:
        description: The file's name, the network and the library, for reports.
        model_type: The architecture in Transformers.
        settings: Arguments of its configuration class.
        state_dict: The tensors by the names of Transformers' checkpoints on the Hub; without a head where the file's
            does not fit.
        preprocessing: The figures of the image processor that differ from ImageNet's, by the fields of
            `models.processor.Preprocessing`.
        unused: The names of the file's tensors that are not in `state_dict`.
    """

    description: str
    model_type: str
    settings: dict[str, Any]
    state_dict: dict[str, torch.Tensor]
    preprocessing: dict[str, Any]
    unused: list[str]


def load_foreign(source: str, sha256: str | None = None) -> ForeignWeights:
    """Read a file or an address and return its weights in the layout of Transformers.

    Args:
        source: A path or an address.
        sha256: The beginning of the file's SHA-256, or None.

    Raises:
        UserError: The file cannot be read, or Transformers has no such network.
    """
    return recognize(read_state_dict(source, sha256))


def recognize(file: StateDict) -> ForeignWeights:
    """Find the network in which all tensors have a place.

    Raises:
        UserError: There is none; the message names the closest.
    """
    candidates = [(family, naming, naming.place(file.tensors)) for family in FAMILIES for naming in family.namings]
    fewest = min(len(placement.misplaced) for _, _, placement in candidates)
    closest = [candidate for candidate in candidates if len(candidate[2].misplaced) == fewest]
    misfits = []
    for family, naming, placement in closest:
        try:
            return _take(file, family, naming, placement)
        except Misfit as misfit:
            misfits.append(str(misfit))
    family, naming, placement = closest[0]
    if misfits[0]:
        problem = f"is a {family.name} {misfits[0]}, which cannot be loaded"
    elif placement.places:
        problem = f"is of no network that is known here; the closest is {family.name} by the names of {naming.library}"
    else:
        known = ", ".join(family.name for family in FAMILIES)
        raise UserError(f"load_from: {file.file_name} is of no network that is known here ({known}).")
    total, fit = len(file.tensors), len(file.tensors) - len(placement.misplaced)
    others = f", but not {_some(placement.misplaced)}" if placement.misplaced else ""
    raise UserError(f"load_from: {file.file_name} {problem}: {fit} of its {total} tensors fit{others}.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _take(file: StateDict, family: Family, naming: Naming, placement: Placement) -> ForeignWeights:
    """Return the weights as those of a family's network.

    Raises:
        Misfit: The tensors belong to another network; the message is empty if only their names tell.
    """
    before_head = [name for name in placement.misplaced if _BEFORE_HEAD.search(name)]
    misplaced = len(placement.misplaced) - len(before_head)
    if misplaced > len(placement.places):
        raise Misfit
    for pattern, variant in family.variants.items():
        if any(re.search(pattern, name) for name in file.tensors):
            raise Misfit(variant)
    if misplaced:
        raise Misfit
    state_dict = naming.convert(file.tensors, placement.places)
    head = [name for name in state_dict if name.startswith(f"{family.head}.")]
    if before_head:
        for name in head:
            del state_dict[name]
        before_head += [key for key, names in placement.places.items() if names[0] in head]
    try:
        model_type, settings = family.configure(state_dict)
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise Misfit("whose tensors' shapes do not go together") from error
    if head and not before_head:
        settings["num_labels"] = len(tensor_of(state_dict, f"{family.head}.weight"))
        names = file.label_names or []
        if len(names) == settings["num_labels"]:
            settings["id2label"] = dict(enumerate(names))
            settings["label2id"] = {name: position for position, name in enumerate(names)}
    return ForeignWeights(
        description=f"{file.file_name} ({family.name} by the names of {naming.library})",
        model_type=model_type,
        settings=settings,
        state_dict=state_dict,
        preprocessing=family.preprocessing(settings, naming.library, file.file_name),
        unused=[*placement.beside, *before_head],
    )
