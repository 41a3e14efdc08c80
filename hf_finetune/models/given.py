"""A network that a Python program hands over as an object, given a head for the dataset's classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from transformers import PreTrainedModel, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from hf_finetune.errors import UserError
from hf_finetune.models.load import LoadedModel, _initialize_head, head_parameter_names, quiet_transformers


def check_given_model(model: object) -> PreTrainedModel:
    """Return a model object that can be fine-tuned.

    Raises:
        UserError: Where it is not an image classifier of Transformers.
    """
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"model is {kind}; use a name, a folder or a transformers.PreTrainedModel such as"
            " AutoModelForImageClassification.from_pretrained(...)."
        )
    known = type(model) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.values() or "ForImageClassification" in kind
    if not known:
        raise UserError(f"model is {kind}, which has no head for classes; use an image classifier, {kind} with a head.")
    return model


def adopt_model(model: PreTrainedModel, label_names: Sequence[str], seed: int) -> LoadedModel:
    """Return a model object with a head for these classes.

    The head stays where it has as many classes of the same names. With as many of other names it is initialized anew;
    with another number of them, the result is a copy of the model with a new head, and the object stays as it was. In
    the other two cases the object itself is what is trained.

    Args:
        model: An image classifier.
        label_names: The names of the dataset's classes by class id.
        seed: What a new head is initialized from.
    """
    set_seed(seed)
    own = [model.config.id2label.get(position) for position in range(model.config.num_labels)]
    kind, named = type(model).__name__, f"{len(label_names)} classes"
    if own == list(label_names):
        return LoadedModel(_trainable(model), frozenset(), f"{kind}, an object of Python: the head kept.")
    if len(own) == len(label_names):
        _initialize_head(model)
        _name_classes(model.config, label_names)
        head = frozenset(head_parameter_names(model))
        report = f"{kind}, an object of Python: its head knew other classes and is initialized for {named}."
        return LoadedModel(_trainable(model), head, report)
    config = copy.deepcopy(model.config)
    _name_classes(config, label_names)
    with quiet_transformers():
        adopted, info = type(model).from_pretrained(
            None,
            config=config,
            state_dict=model.state_dict(),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype="float32",
        )
    new = frozenset({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    if new - head_parameter_names(adopted):
        raise UserError(
            f"model: {kind} cannot be given a head for {named}, because {min(new - head_parameter_names(adopted))} does"
            f" not fit either; use a model whose config.num_labels is {len(label_names)}."
        )
    report = f"a copy of {kind}, an object of Python: its head of {len(own)} classes is replaced by one for {named}."
    return LoadedModel(_trainable(adopted), new, report)


def _name_classes(config: object, label_names: Sequence[str]) -> None:
    config.num_labels = len(label_names)  # type: ignore[attr-defined]
    config.id2label = dict(enumerate(label_names))  # type: ignore[attr-defined]
    config.label2id = {name: position for position, name in enumerate(label_names)}  # type: ignore[attr-defined]


def _trainable(model: PreTrainedModel) -> PreTrainedModel:
    return model.float()  # as checkpoints are loaded; mixed precision is the Trainer's
