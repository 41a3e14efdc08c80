"""Loads a classifier and gives it a head for the dataset's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger
from hf_finetune.models.channels import check_channels, see_luminance
from hf_finetune.models.checkpoint import Checkpoint, open_checkpoint
from hf_finetune.models.ensemble import EnsembleSource, read_ensemble
from hf_finetune.models.foreign.checkpoint import ForeignCheckpoint
from hf_finetune.models.head import class_names, head_parameter_names, initialize_head, set_class_names
from hf_finetune.models.image_size import match_image_size
from hf_finetune.models.model_object import ModelObject
from hf_finetune.models.source import Architecture, LoadedWeights, ModelSource
from hf_finetune.tasks import ONE_LABEL, Task

logger = get_logger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A network with a head for the dataset's classes.

    Attributes:
        model: The network, float32.
        initialized: The names of its tensors that are new rather than loaded.
        report: One sentence on what was loaded, for the log.
    """

    model: PreTrainedModel
    initialized: frozenset[str]
    report: str


def open_source(source: ModelArguments | ModelSource | PreTrainedModel) -> ModelSource:
    """Resolve a recipe's choice of network once. What is resolved already is returned as it is.

    A file of another library is read, and downloaded if it is an address; with several processes, do it in the main
    process first.

    Args:
        source: The recipe's arguments, or a network that the caller has built.

    Raises:
        UserError: No network is named or two are, there is no such checkpoint, or a file cannot be read.
    """
    if isinstance(source, PreTrainedModel):
        return ModelObject(source)
    if not isinstance(source, ModelArguments):
        return source
    settings = source.model_config or {}
    if source.load_from is not None:
        foreign = ForeignCheckpoint(source.load_from, source.load_from_sha256, settings)
        if source.model_type not in (None, foreign.model_type):
            raise UserError(
                f"load_from: {foreign.name} is of model_type {foreign.model_type}, but the recipe's is"
                f" {source.model_type}; use --model_type null to take the file's."
            )
        return foreign
    if source.model_type is not None:
        if source.model_name_or_path is not None:
            raise UserError(
                f"model_type {source.model_type} and model_name_or_path {source.model_name_or_path} exclude each other;"
                " keep one and set the other to null."
            )
        return Architecture(source.model_type, settings, source.trust_remote_code)
    if source.model_name_or_path is None:
        raise UserError("There is no model; use --model_name_or_path microsoft/resnet-50, or --recipe NAME.")
    if (ensemble := read_ensemble(Path(source.model_name_or_path).expanduser())) is not None:
        members, thresholds = ensemble
        sources = [open_source(replace(source, model_name_or_path=str(member))) for member in members]
        return EnsembleSource(source.model_name_or_path, sources, thresholds)
    return open_checkpoint(
        source.model_name_or_path, source.model_revision, source.trust_remote_code, settings, source.pretrained
    )


def check_num_labels(arguments: ModelArguments, label_names: Sequence[str]) -> None:
    """Check that the recipe states no other number of classes than the dataset has.

    Raises:
        UserError: It does.
    """
    if arguments.num_labels is not None and arguments.num_labels != len(label_names):
        raise UserError(
            f"num_labels is {arguments.num_labels} but the dataset has {len(label_names)} classes"
            f" ({', '.join(label_names[:5])}{', ...' if len(label_names) > 5 else ''}); use --num_labels"
            f" {len(label_names)}, or null to follow the dataset."
        )


def load_config(
    source: ModelArguments | ModelSource, label_names: Sequence[str] | None, task: Task = ONE_LABEL
) -> PreTrainedConfig:
    """Load or build a network's configuration, with a head for the dataset's classes.

    Args:
        source: Where the network comes from.
        label_names: The classes in the order of their ids; None keeps those of the source.
        task: What the head answers with these classes.

    Raises:
        UserError: The source cannot be read or is not an image classifier.
    """
    config = open_source(source).load_config()
    if label_names is not None:
        set_class_names(config, label_names, task)
    return config


def load_model(
    source: ModelArguments | ModelSource, config: PreTrainedConfig, label_names: Sequence[str], seed: int
) -> LoadedModel:
    """Build the network of a configuration with the backbone of its source.

    The source's head is kept if it knows the same classes in the same order; otherwise the head is new.

    Args:
        source: Where the network comes from.
        config: Its configuration, from `load_config`.
        label_names: The classes in the order of their ids.
        seed: Initializes whatever is new.

    Raises:
        UserError: The weights cannot be read, or others than the head's are missing or have another shape; or the
            network takes neither RGB nor one channel.
    """
    source = open_source(source)
    check_channels(config)
    torch.manual_seed(seed)
    weights = source.load_weights(config)
    model = weights.model
    see_luminance(model)
    if weights.from_scratch:
        report = f"{type(model).__name__}: all {len(weights.new)} tensors initialized, seed {seed}."
        return LoadedModel(model, weights.new, report)
    new, head = weights.new, head_parameter_names(model)
    if new - head:
        raise UserError(
            f'"{source.name}" does not fit: {len(new - head)} tensors besides the head are missing or have another'
            f" shape, the first is {min(new - head)}; check model_config"
            f"{', or use --pretrained false for random weights' if isinstance(source, Checkpoint) else ''}."
        )
    if not new and weights.label_names != tuple(label_names):
        initialize_head(model)  # as many classes, but others: their weights mean nothing here
        new = frozenset(head)
    return LoadedModel(model, new, _report(source.name, weights, new, len(label_names)))


def _report(name: str, weights: LoadedWeights, new: frozenset[str], classes: int) -> str:
    reused = len(weights.model.state_dict()) - len(new)
    unused = ""
    if weights.unused:
        named = ", ".join(weights.unused[:5]) + (", ..." if len(weights.unused) > 5 else "")
        unused = f", {len(weights.unused)} of the checkpoint not used ({named})"
    heads = f"{len(new)} of the head initialized for {classes} classes" if new else "the head kept"
    return f"{name}: {reused} tensors reused, {heads}{unused}.{weights.note}"


def load_trained(source: ModelArguments | ModelSource, sides: tuple[int, int] | None = None) -> PreTrainedModel:
    """Load a classifier as it was saved, head included, in evaluation mode.

    Args:
        source: Where the network comes from.
        sides: The height and the width of its images in pixels, where they may differ from those it was saved for.

    Raises:
        UserError: It cannot be read, is not a classifier, lacks weights, or does not take images of `sides`.
    """
    source = open_source(source)
    config = source.load_config()
    if sides is not None and not isinstance(source, ModelObject):
        match_image_size(config, sides, {})
    loaded = load_model(source, config, class_names(config), seed=0)
    if loaded.initialized:
        raise UserError(f'"{source.name}" has no trained head; fine-tune it first: hf-finetune train.')
    if sides is not None:
        logger.info(f"Model: {loaded.report}")
    loaded.model.eval()
    return loaded.model
