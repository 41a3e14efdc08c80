"""LoRA and DoRA: few weights that are trained beside frozen ones, through the library PEFT.

Hu et al., "LoRA: low-rank adaptation of large language models", arXiv:2106.09685: the output of a layer with the frozen
weights W becomes that of W + (alpha / r) B A, with B and A of rank r. B starts at 0, so training begins with the
network as it was. Liu et al., "DoRA: weight-decomposed low-rank adaptation", arXiv:2402.09353, train the length of each
row of that sum as well.

The classification head is trained whole. BatchNorm keeps its statistics, so that the weights below an adapter never
change. PEFT's layers take the place of those that they adapt; the network stays an object of its own class.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from hf_finetune.config.peft_keys import AdapterSettings
from hf_finetune.config.run_files import ADAPTER_FILES
from hf_finetune.errors import UserError, did_you_mean, listing
from hf_finetune.models.channels import has_one_channel, image_channels
from hf_finetune.models.freeze import BATCH_NORM, freeze_modules
from hf_finetune.models.head import head_parameter_names

CONFIG_FILE, WEIGHTS_FILE = ADAPTER_FILES
_ADAPTER = "default"  # PEFT's name of an adapter that nobody names
_PREFIX = "base_model.model."  # of each name in PEFT's files


def need_peft(purpose: str) -> None:
    """Raise `UserError` if PEFT, which `purpose` needs, is not installed."""
    if find_spec("peft") is None:
        raise UserError(f'{purpose} needs the package peft; install it with `pip install "hf-finetune[peft]"`.')


def has_adapters(model: nn.Module) -> bool:
    """Return whether a network has adapters."""
    return hasattr(model, "peft_config")


def add_adapters(model: PreTrainedModel, settings: AdapterSettings, sides: tuple[int, int], seed: int) -> str:
    """Add adapters to a network in place, freeze all else but its head, and return one line on it.

    Args:
        model: The network.
        settings: Which adapters.
        sides: Height and width of the images that it sees, in pixels.
        seed: Initializes the adapters.

    Raises:
        UserError: The network cannot have them.
    """
    need_peft("The key peft")
    head = head_parameter_names(model)
    _check_network(model, head)
    from peft import LoraConfig, inject_adapter_in_model  # optional

    layers = _layers_of_an_image(model, sides)
    if settings.target_modules is None:
        targets = _chosen(model, layers, head, settings.r)
    else:
        targets = _named(model, layers, head, settings.target_modules)
    torch.manual_seed(seed)
    config: Any = LoraConfig(
        r=settings.r, lora_alpha=cast(Any, settings.alpha), use_dora=settings.use_dora, target_modules=targets,
        modules_to_save=None,
    )  # fmt: skip
    was_training = model.training
    inject_adapter_in_model(config, model, _ADAPTER)
    for name in head:
        model.get_parameter(name).requires_grad_(True)
    freeze_modules(model, [BATCH_NORM])
    model.train(was_training)
    total, trained = model.num_parameters(), model.num_parameters(only_trainable=True)
    kind = "DoRA" if settings.use_dora else "LoRA"
    return (
        f"Trained: {trained:,} of {total:,} parameters ({trained / total:.1%}), {kind} of rank {settings.r} in"
        f" {len(targets)} layers and the head."
    )


def _check_network(model: PreTrainedModel, head: set[str]) -> None:
    kind = type(model).__name__
    if has_adapters(model):
        raise UserError(f"peft: {kind} has an adapter already; save it, and start from its folder.")
    if len(head) == len(list(model.parameters())):
        raise UserError(f"peft: {kind} does not say which part of it is the backbone; leave peft out.")
    if has_one_channel(model):
        raise UserError("peft does not go with a network of 1 channel, which is saved with 3; leave peft out.")
    others = [name for name, _ in model.named_modules()]
    for own in _head_modules(model):
        if any(name.endswith(own) for name in others if name != own):  # PEFT would take those for the head too
            raise UserError(f"peft: {kind} has other modules whose names end in {own}, as its head's; leave peft out.")


def _head_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of the outermost modules that hold parameters of the head and no others."""
    head, found = head_parameter_names(model), list[str]()
    for name, module in model.named_modules():  # a module comes before those inside it
        own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
        if own and own <= head and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


# ---- which layers ----


def _layers_of_an_image(model: PreTrainedModel, sides: tuple[int, int]) -> list[str]:
    """Return the names of the linear layers and convolutions that an image goes through, in order.

    A layer that is never called, such as a pooler that nothing reads, would get no gradient. So would one whose
    weights are read by the layer around it, as in `torch.nn.MultiheadAttention`.
    """
    called: dict[str, None] = {}
    handles = [
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: called.setdefault(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(pixel_values=torch.zeros(1, image_channels(model.config) or 3, *sides, device=model.device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return list(called)


def _is_adaptable(layer: nn.Module) -> bool:
    """Whether PEFT's layer computes and merges what it should: subclasses may change the weights or the padding."""
    if type(layer) is nn.Linear:
        return True
    return type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros" and layer.dilation == (1, 1)


def _chosen(model: PreTrainedModel, layers: Sequence[str], head: set[str], r: int) -> list[str]:
    """Return the layers that `target_modules: auto` stands for.

    These are all linear layers and all convolutions without groups outside the head, but for the convolution that sees
    the pixels, and for layers that have fewer weights than their adapter would have.
    """
    chosen = []
    for name in layers[1:] if isinstance(model.get_submodule(layers[0]), nn.Conv2d) else layers:
        layer: Any = model.get_submodule(name)
        if f"{name}.weight" in head or not _is_adaptable(layer):
            continue
        out, inputs = layer.weight.shape[0], layer.weight[0].numel()
        if r * (out + inputs) < out * inputs:
            chosen.append(name)
    if not chosen:
        raise UserError(f"peft: {type(model).__name__} has no layer outside its head for rank {r}; use a smaller r.")
    return chosen


def _named(model: PreTrainedModel, layers: Sequence[str], head: set[str], stated: Sequence[str]) -> list[str]:
    """Return the layers whose names are one of `stated`, or end in a dot and one of them, in order."""
    modules, found = dict(model.named_modules()), dict[str, None]()
    for wanted in stated:
        matching = [name for name in modules if name == wanted or name.endswith(f".{wanted}")]
        if not matching:
            ends = {name.rpartition(".")[2]: None for name in layers if f"{name}.weight" not in head}
            raise UserError(
                f'peft: target_modules: {type(model).__name__} has no module "{wanted}".'
                f"{did_you_mean(wanted, [*ends, *modules])} Use auto, or names such as {listing(list(ends))}."
            )
        for name in matching:
            if f"{name}.weight" in head:
                raise UserError(f"peft: target_modules: {name} is of the head, which is trained whole; leave it out.")
            if name not in layers or not _is_adaptable(modules[name]):
                raise UserError(
                    f"peft: target_modules: {name} is {type(modules[name]).__name__}; use linear layers and"
                    " convolutions without groups that an image goes through, or auto."
                )
            found[name] = None
    return list(found)


# ---- saved forms ----


def adapted_names(model: nn.Module) -> list[str]:
    """Return the names in `state_dict` that training may change: the adapters and the head, with its buffers."""
    within = tuple(f"{name}." for name in _head_modules(cast(PreTrainedModel, model)))
    return [name for name in model.state_dict() if ".lora_" in name or name.startswith(within)]


def save_adapter(model: PreTrainedModel, folder: str | Path) -> None:
    """Write adapters and head to `CONFIG_FILE` and `WEIGHTS_FILE`, which PEFT and Transformers load."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    states = model.state_dict()
    tensors = {_name_in_file(name): states[name].detach().cpu().contiguous() for name in adapted_names(model)}
    save_file(tensors, Path(folder) / WEIGHTS_FILE, metadata={"format": "pt"})
    config: Any = copy.deepcopy(model.peft_config[_ADAPTER])
    origin = model.config.name_or_path or ""
    config.base_model_name_or_path = origin if "/" in origin and not Path(origin).exists() else None  # no path
    config.modules_to_save, config.inference_mode = _head_modules(model), True
    config.save_pretrained(str(folder))


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Load what `save_adapter` has written into a network with the same adapters.

    Raises:
        LookupError: The tensors are those of other adapters.
        RuntimeError: One has another shape.
    """
    saved, names = load_file(folder / WEIGHTS_FILE), adapted_names(model)
    differing = saved.keys() ^ {_name_in_file(name) for name in names}
    if differing:
        raise LookupError(f"{min(differing)} is there or here alone")
    model.load_state_dict({name: saved[_name_in_file(name)] for name in names}, strict=False)


def _name_in_file(name: str) -> str:
    # PEFT itself leaves .weight out behind lora_magnitude_vector, of DoRA, and loads it with and without. Transformers
    # finds it only so, and would go by newly initialized ones.
    return _PREFIX + (name.replace(f".{_ADAPTER}", "") if ".lora_" in name else name)


def weights_below(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the frozen weights and buffers by the names that they have without adapters, and a head of zeros.

    The zeros are for those who load a folder without PEFT, which Transformers does without a word: each class then has
    the same score. With PEFT the adapter brings its head.
    """
    adapted = set(adapted_names(model))
    return {
        name.replace(".base_layer.", "."): torch.zeros_like(tensor) if name in adapted else tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }


def check_adapter_is_loaded(name: str, location: str, revision: str, local_files_only: bool) -> None:
    """Raise `UserError` where a checkpoint has an adapter and PEFT is missing: Transformers would leave it out."""
    if find_spec("peft") is None:
        found = find_adapter_config_file(location, revision=revision, local_files_only=local_files_only)
        if found is not None:
            need_peft(f'"{name}" has an adapter, which')


def merge_loaded_adapter(model: PreTrainedModel, new: frozenset[str]) -> tuple[frozenset[str], str]:
    """Merge the adapter that Transformers has loaded into a network, if there is one.

    Args:
        model: The network.
        new: The names of its tensors that are new, as Transformers has it.

    Returns:
        These names without the adapter, and a sentence on it after a blank, "" where there is none.
    """
    if not has_adapters(model):
        return new, ""
    merge_adapters(model)
    vars(model).pop("_weight_conversions", None)  # the names in PEFT's file, by which Transformers would save the model
    return frozenset(name.replace(f".modules_to_save.{_ADAPTER}", "") for name in new), " Its adapter is merged."


def merge_adapters(model: PreTrainedModel) -> None:
    """Add the adapters to the weights below them, in place: the network is as if it had none."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # optional
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            cast(Any, module).merge(safe_merge=True)
            model.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[_ADAPTER])
    model.requires_grad_(True)
    del model.peft_config
    model._hf_peft_config_loaded = False
