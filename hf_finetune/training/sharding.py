"""Networks whose weights FSDP or DeepSpeed divides over the ranks: what both need to be told of an image classifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.utils import FullyShardedDataParallelPlugin
from transformers import PreTrainedModel
from transformers.integrations import deepspeed

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.errors import UserError, did_you_mean


@contextmanager
def built_whole(args: FinetuneArguments) -> Iterator[None]:
    """Let each rank build the whole network, in its host's memory; DeepSpeed divides it when the training begins.

    With ZeRO-3, Transformers divides each tensor as soon as it is made. Then a new head begins with other numbers than
    in one process, and the shapes that a checkpoint's tensors are compared with are 0.

    Args:
        args: How the network is trained.
    """
    plugin = args.deepspeed_plugin
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if plugin is not None:
            deepspeed.set_hf_deepspeed_config(getattr(plugin, "dschf", None) or plugin.hf_ds_config)


def choose_units(model: PreTrainedModel, plugin: FullyShardedDataParallelPlugin) -> None:
    """Tell Accelerate which modules of a network FSDP gathers one after the other.

    These are the modules that the network names (`_no_split_modules`), such as the layers of a ViT, and the rest. By
    itself, Accelerate adds what the network calls its input embeddings: a ResNet and a ConvNeXt know none, and those of
    a ViT lie within such a module, which cannot be divided twice.

    Args:
        model: The network, which is changed.
        plugin: The settings of FSDP, which are changed.

    Raises:
        UserError: The settings name a class of modules that the network does not have.
    """
    model.get_input_embeddings = _no_embeddings  # type: ignore[method-assign, assignment]
    classes = sorted({type(module).__name__ for module in model.modules()})
    if plugin.transformer_cls_names_to_wrap is None:
        own = model._no_split_modules or ()
        plugin.transformer_cls_names_to_wrap = [name for name in own if name in classes]
    for name in plugin.transformer_cls_names_to_wrap:
        if name not in classes:
            raise UserError(
                f"fsdp_transformer_layer_cls_to_wrap: {type(model).__name__} has no {name}."
                f"{did_you_mean(name, classes)} Leave it out to take the network's own layers."
            )


def _no_embeddings() -> None:
    return None
