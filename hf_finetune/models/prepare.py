"""Makes a network ready for training: loaded, BatchNorm synchronized, frozen, its head checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from hf_finetune.config.model import FITTED_HEADS, ModelArguments
from hf_finetune.config.peft_keys import adapter_settings
from hf_finetune.errors import UserError
from hf_finetune.models.adapters import add_adapters
from hf_finetune.models.batch_norm import synchronize_batch_norm
from hf_finetune.models.choose_head import with_chosen_head
from hf_finetune.models.dropout import drop_features
from hf_finetune.models.freeze import Frozen, freeze_modules
from hf_finetune.models.head import head_linear
from hf_finetune.models.load import LoadedModel, load_model
from hf_finetune.models.source import ModelSource


@dataclass(frozen=True)
class PreparedModel:
    """A network that is ready for training.

    Attributes:
        loaded: The network, and which of its tensors are new.
        frozen: What of it is not trained.
    """

    loaded: LoadedModel
    frozen: Frozen

    @property
    def report(self) -> tuple[str, ...]:
        """The lines on it for the log."""
        return f"Model: {self.loaded.report}", *self.frozen.report


def prepare_model(
    source: ModelSource,
    config: PreTrainedConfig,
    arguments: ModelArguments,
    label_names: Sequence[str],
    seed: int,
    sides: tuple[int, int],
    sync_batchnorm: bool = False,
) -> PreparedModel:
    """Load a network, synchronize its BatchNorm if asked, and freeze what the recipe names, or all but
    adapters and the head.

    Args:
        source: Where the network comes from, from `open_source`.
        config: Its configuration, from `load_config`; `load_image_processor` may have changed it.
        arguments: The recipe's `head`, `freeze`, `peft`, `head_dropout` and `head_init`.
        label_names: The classes in the order of their ids.
        seed: Initializes whatever is new.
        sides: Height and width of the images that the network sees, in pixels.
        sync_batchnorm: Whether BatchNorm computes its statistics over the images of all processes.

    Raises:
        UserError: The weights do not fit, the head cannot be replaced, a module to freeze does not exist, or the head
            cannot be probed, or has no layer for `head_dropout`.
    """
    loaded = with_chosen_head(load_model(source, config, label_names, seed), arguments.head, sides)
    if sync_batchnorm:
        synchronize_batch_norm(loaded.model)  # before freezing, which binds to the modules as they are
    if arguments.peft is None:
        frozen = freeze_modules(loaded.model, arguments.freeze or (), loaded.initialized)
    else:
        frozen = _adapted(loaded, arguments.peft, sides, seed)
    if arguments.head_dropout:
        drop_features(loaded.model, arguments.head_dropout)
    if arguments.head_init in FITTED_HEADS:
        head_linear(loaded.model, arguments.head_init)  # raises before the features are computed
    return PreparedModel(loaded, frozen)


def _adapted(loaded: LoadedModel, stated: Mapping[str, Any], sides: tuple[int, int], seed: int) -> Frozen:
    if set(loaded.model.state_dict()) <= loaded.initialized:
        raise UserError("peft trains a few weights beside pretrained ones, and here all are random; leave peft out.")
    return Frozen(backbone=False, report=(add_adapters(loaded.model, adapter_settings(stated), sides, seed),))
