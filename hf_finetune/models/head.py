"""Everything about the classification head: which part of a network it is, its classes, and a new one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import UserError, listing
from hf_finetune.logs import get_logger
from hf_finetune.tasks import ONE_LABEL, Task

logger = get_logger(__name__)

# What timm's checkpoints say of their classes, beside the figures of their images or among them.
_TIMM_CLASSES = {"label_names", "label_descriptions", "label_offset", "labels", "num_classes"}


def head_parameter_names(model: PreTrainedModel) -> set[str]:
    """Return the names of the parameters of the classification head: all that are not part of the backbone.

    A network that does not tell its backbone from its head (`base_model_prefix` names no module) is all head.
    """
    if model.config.model_type == "timm_wrapper":  # timm's network holds both the backbone and the head
        found = model.get_submodule("timm_model").get_classifier()  # type: ignore[operator]
        classifiers = found if isinstance(found, tuple) else (found,)  # of a distilled network: the teacher's as well
        head = {id(parameter) for classifier in classifiers for parameter in classifier.parameters()}
        return {name for name, parameter in model.named_parameters() if id(parameter) in head}
    return {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}


def head_module(model: PreTrainedModel) -> nn.Module | None:
    """Return the outermost module that holds the head's parameters and no others, None where it takes several."""
    head = head_parameter_names(model)
    for name, module in model.named_modules():  # a module comes before those inside it
        own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
        if own and own <= head:
            return module if own == head else None
    return None


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Give a list to which each call of `module` adds its input."""
    given: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        yield given
    finally:
        hook.remove()


def head_linear(model: PreTrainedModel, head_init: str = "probe") -> nn.Linear:
    """Return the linear layer that computes the logits.

    Args:
        model: The network.
        head_init: What the layer is for, named in the message.

    Raises:
        UserError: The head has several linear layers, none, or one without bias.
    """
    head = head_parameter_names(model)
    layers = [
        module for name, module in model.named_modules() if isinstance(module, nn.Linear) and f"{name}.weight" in head
    ]
    if len(layers) != 1 or layers[0].bias is None or layers[0].out_features != model.config.num_labels:
        raise UserError(
            f"head_init: {head_init} needs a head with one linear layer that gives the logits, which"
            f" {type(model).__name__} has not; use --head_init random."
        )
    return layers[0]


def logits_layer(model: PreTrainedModel) -> nn.Linear | None:
    """Return the one linear layer of the head with an output for each class; None where there is none or several."""
    head = head_parameter_names(model)
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in head and module.out_features == model.config.num_labels
    ]
    return layers[0] if len(layers) == 1 else None


def class_names(config: PreTrainedConfig) -> list[str]:
    """Return the names of a network's classes in the order of its logits."""
    names: dict[Any, str] = dict(config.id2label or {})
    return [str(names.get(position)) for position in range(config.num_labels or 0)]


def describe_repeated(names: Sequence[str]) -> str | None:
    """Return `crane (134 and 517)` for names that several classes have, with their class ids; None without."""
    ids: dict[str, list[str]] = {}
    for class_id, name in enumerate(names):
        ids.setdefault(name, []).append(str(class_id))
    repeated = [f"{name} ({' and '.join(its_ids)})" for name, its_ids in ids.items() if len(its_ids) > 1]
    return listing(repeated) if repeated else None


def set_class_names(config: PreTrainedConfig, label_names: Sequence[str], task: Task = ONE_LABEL) -> None:
    """Give a network's configuration the classes `label_names`, in the order of the logits, and a task.

    What the configuration says of an old head and its task goes: a `pipeline` would answer by it, with sigmoids where
    it says `multi_label_classification`.
    """
    same = (task.problem_type, None) if task.several else (None, "single_label_classification")
    earlier = [] if config.problem_type in same else [str(config.problem_type)]
    if hasattr(config, "function_to_apply"):
        earlier.append(f"function_to_apply: {config.function_to_apply}")
        del config.function_to_apply
    if hasattr(config, "thresholds"):
        del config.thresholds  # of the old head
    if earlier:
        logger.info(
            "Note: the checkpoint's head had another task (%s); the model is saved for %s per image.",
            ", ".join(earlier),
            "several classes" if task.several else "one class",
        )
    if earlier or task.several:
        config.problem_type = task.problem_type  # before the number of classes, which it would be checked against
    if config.model_type == "timm_wrapper":
        _forget_timm_classes(config)
    config.num_labels = len(label_names)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: position for position, name in enumerate(label_names)}


def _forget_timm_classes(config: PreTrainedConfig) -> None:
    """Take the old head's classes out of a timm configuration, which would be saved in the place of the new names."""
    for name in _TIMM_CLASSES & vars(config).keys():
        delattr(config, name)
    figures = getattr(config, "pretrained_cfg", None)
    if isinstance(figures, dict):
        config.pretrained_cfg = {key: value for key, value in figures.items() if key not in _TIMM_CLASSES}


def initialize_head(model: PreTrainedModel) -> None:
    """Initialize the weights of the head anew, in place, as PyTorch's layers initialize themselves."""
    head = head_parameter_names(model)
    for name, module in model.named_modules():
        owns_head = any(f"{name}.{own}" in head for own, _ in module.named_parameters(recurse=False))
        if owns_head and hasattr(module, "reset_parameters"):
            module.reset_parameters()


def replace_head(model: PreTrainedModel, config: PreTrainedConfig) -> frozenset[str]:
    """Replace those layers of the head whose shapes do not fit the number of classes in `config`, in place.

    The new layers come from a network that the model's class builds from `config`. Everything else of the model stays:
    its other tensors, hooks and modules.

    Returns:
        The names of the new parameters.

    Raises:
        UserError: The class builds no network from a configuration alone, or its head is not as that would have it.
    """
    advice = f"build the model with a head for {config.num_labels} classes (num_labels={config.num_labels})."
    try:
        fresh = type(model)(config)
    except Exception as error:  # the class is the caller's and may raise anything
        raise UserError(f"model: no new head can be built for {type(model).__name__} ({error}); {advice}") from error
    head, shapes = head_parameter_names(fresh), {name: own.shape for name, own in model.named_parameters()}
    owners = {
        name.rpartition(".")[0]
        for name, parameter in fresh.named_parameters()
        if name in head and parameter.shape != shapes.get(name)
    }
    if not owners or "" in owners or not head <= set(shapes):
        raise UserError(f"model: the head of {type(model).__name__} cannot be replaced; {advice}")
    for owner in owners:
        model.set_submodule(owner, fresh.get_submodule(owner).to(model.device))
    if hasattr(model, "num_labels"):  # Transformers' classifiers keep a copy for their own loss
        model.num_labels = config.num_labels  # type: ignore[assignment]
    return frozenset(f"{owner}.{name}" for owner in owners for name, _ in model.get_submodule(owner).named_parameters())
