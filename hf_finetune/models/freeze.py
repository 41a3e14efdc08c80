"""Freezes the backbone, all of BatchNorm, or modules by their names.

A frozen module is not trained, and it behaves in training as in evaluation: BatchNorm keeps its running statistics and
dropout is off. Otherwise the statistics would change although the weights do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import MethodType

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.models.batch_norm import batch_norms
from hf_finetune.models.head import head_parameter_names

# Words in a recipe's `freeze` beside names of modules.
BACKBONE = "backbone"  # everything but the head
BATCH_NORM = "batch_norm"  # every BatchNorm whose statistics were loaded


@dataclass(frozen=True)
class Frozen:
    """What `freeze_modules` did.

    Attributes:
        backbone: Whether it froze the whole backbone, so that an image's features are the same in every epoch.
        report: One line for the log, none where nothing was frozen.
    """

    backbone: bool
    report: tuple[str, ...]


def freeze_modules(model: PreTrainedModel, names: Sequence[str], initialized: Collection[str] = frozenset()) -> Frozen:
    """Freeze modules of a network, in place. They stay frozen through `model.train()` and in copies of the model.

    Args:
        model: The network.
        names: Names of its modules, such as `resnet.encoder.stages.0`; `backbone` for all but its head; `batch_norm`
            for every BatchNorm, of which there may be none.
        initialized: The names of its tensors that are new. A BatchNorm with new statistics is trained all the same: it
            would normalize by what it has never measured.

    Raises:
        UserError: The network has no module of such a name, or nothing would be left to train.
    """
    head = head_parameter_names(model)
    modules = dict(model.named_modules())
    any_held = False
    for name in names:
        if name == BACKBONE:
            if len(head) == len(list(model.parameters())):
                raise UserError(
                    f"freeze: {type(model).__name__} does not say which part of it is the backbone; use the names of"
                    f" modules: {', '.join(child for child, _ in model.named_children())}."
                )
            for parameter_name, parameter in model.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and parameter_name in head)
            held = list(_modules_outside(model, {id(model.get_parameter(parameter)) for parameter in head}))
        elif name == BATCH_NORM:
            held = [norm for path, norm in batch_norms(model) if f"{path}.running_mean" not in initialized]
            for norm in held:
                norm.requires_grad_(False)
        elif name and name in modules:
            modules[name].requires_grad_(False)
            held = [modules[name]]
        else:
            near = did_you_mean(name, [BACKBONE, BATCH_NORM, *modules])
            raise UserError(
                f'freeze: {type(model).__name__} has no module "{name}".{near}'
                f" Use {BACKBONE}, {BATCH_NORM}, or names such as {', '.join(list(modules)[1:3])}."
            )
        any_held |= bool(held)
        for module in held:
            module.eval()
            module.train = MethodType(_stay_in_evaluation, module)  # type: ignore[method-assign]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze: {', '.join(names)} leaves nothing to train; use {BACKBONE} to train the head.")
    if not any_held:
        return Frozen(backbone=False, report=())
    total = model.num_parameters()
    frozen = total - model.num_parameters(only_trainable=True)
    report = f"Frozen: {', '.join(names)}, {frozen:,} of {total:,} parameters."
    return Frozen(not trains_backbone(model), (report,))


def hold_backbone(model: PreTrainedModel) -> Callable[[], None]:
    """Freeze all but the head for a while, in place.

    Args:
        model: The network; what is frozen already stays so.

    Returns:
        A function that takes it back, and leaves the network in the mode of training that it then has.
    """
    head = head_parameter_names(model)
    held = [own for name, own in model.named_parameters() if name not in head and own.requires_grad]
    modules = [
        module
        for module in _modules_outside(model, {id(model.get_parameter(name)) for name in head})
        if "train" not in vars(module)  # frozen for good
    ]
    for parameter in held:
        parameter.requires_grad_(False)
    for module in modules:
        module.eval()
        module.train = MethodType(_stay_in_evaluation, module)  # type: ignore[method-assign]

    def release() -> None:
        for parameter in held:
            parameter.requires_grad_(True)
        for module in modules:
            del module.train
            module.train(model.training)

    return release


def trains_backbone(model: PreTrainedModel) -> bool:
    """Whether any parameter outside the head is trained."""
    head = head_parameter_names(model)
    return any(parameter.requires_grad for name, parameter in model.named_parameters() if name not in head)


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    """Replace a frozen module's `train`, which `model.train()` calls on each of its modules."""
    return module


def _modules_outside(module: nn.Module, head: set[int]) -> Iterator[nn.Module]:
    """Yield the outermost modules with weights or statistics that hold none of the parameters with the ids `head`."""
    for child in module.children():
        parameters = {id(parameter) for parameter in child.parameters()}
        if not parameters & head and (parameters or list(child.buffers())):
            yield child
        elif not parameters <= head:
            yield from _modules_outside(child, head)
