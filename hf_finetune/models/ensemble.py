"""Several classifiers as one: the mean of the probabilities that each gives an image."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid
from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from hf_finetune.config.run_files import ENSEMBLE_FILE
from hf_finetune.errors import UserError, first_line
from hf_finetune.models.channels import see_luminance
from hf_finetune.models.head import class_names
from hf_finetune.models.source import LoadedWeights, ModelSource
from hf_finetune.tasks import task_of


class Ensemble(PreTrainedModel):
    """The mean of the probabilities of several classifiers (Hansen and Salamon 1990, "Neural network ensembles").

    Its logits are the logarithms of the mean probabilities, whose softmax is the mean; or where images have several
    labels, the logits of the mean probabilities.

    Args:
        models: Image classifiers of the same classes, in the same order.
    """

    takes_rgb = True  # the members do, each by itself

    def __init__(self, models: Sequence[PreTrainedModel]) -> None:
        super().__init__(copy.deepcopy(models[0].config))
        self.members = nn.ModuleList(models)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        """Return the logits of a batch, float32 (batch, classes)."""
        logits = [member(pixel_values=pixel_values).logits.float() for member in self.members]
        if task_of(self.config).several:
            present, absent = (
                torch.stack([logsigmoid(sign * own) for own in logits]).logsumexp(dim=0) for sign in (1, -1)
            )
            return ImageClassifierOutput(logits=present - absent)
        total = torch.stack([own.log_softmax(dim=-1) for own in logits]).logsumexp(dim=0)
        return ImageClassifierOutput(logits=total - math.log(len(logits)))


@dataclass(frozen=True)
class EnsembleSource:
    """The folder of an ensemble, whose members are folders below it.

    Attributes:
        name: What the user calls it.
        members: Where its members come from.
        thresholds: The probability from which on each class is given, where images have several labels.
    """

    name: str
    members: Sequence[ModelSource]
    thresholds: Sequence[float] | None = None

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        return self.members[0].preprocessing

    def load_config(self) -> PreTrainedConfig:
        return self.members[0].load_config()

    def load_processor(self) -> BaseImageProcessor | None:
        return self.members[0].load_processor()

    def load_weights(self, config: PreTrainedConfig) -> LoadedWeights:
        models, names = [], tuple(class_names(config))
        for member in self.members:
            loaded = member.load_weights(copy.deepcopy(config))
            if loaded.new or loaded.label_names != names:
                raise UserError(
                    f'"{member.name}" does not have the classes of "{self.members[0].name}"; train both again.'
                )
            see_luminance(loaded.model)
            loaded.model.eval()
            models.append(loaded.model)
        note = f" The ensemble has {len(models)} members."
        ensemble = Ensemble(models)
        if self.thresholds is not None:
            ensemble.config.thresholds = list(self.thresholds)
        return LoadedWeights(ensemble, frozenset(), names, note=note)


def read_ensemble(folder: Path) -> tuple[list[Path], list[float] | None] | None:
    """Return the folders of an ensemble's members, and its thresholds; None for a folder that holds no ensemble.

    Raises:
        UserError: The ensemble's file is damaged, or a member is gone.
    """
    file = folder / ENSEMBLE_FILE
    if not file.is_file():
        return None
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        names, thresholds = stated["members"], stated.get("thresholds")
        if thresholds is not None:
            thresholds = [float(threshold) for threshold in thresholds]
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("its members are not names of folders beside it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}; run hf-finetune kfold again.") from error
    members = [folder / name for name in names]
    for member in members:
        if not member.is_dir():
            raise UserError(f"{file} names {member.name}, which is not there; run hf-finetune kfold again.")
    return members, thresholds
