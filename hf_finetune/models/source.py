"""Where a network comes from: one interface for all kinds of sources, and the two that load no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.models.pooled_backbone import PooledBackboneConfig

# Families of Transformers whose weights a classifier of another family loads: the encoder is the same.
_SAME_ENCODER = {"vit_mae": ViTConfig}


@dataclass(frozen=True)
class LoadedWeights:
    """A network with the weights of its source.

    Attributes:
        model: The network, float32 and on the CPU unless it was passed as an object.
        new: The names of the tensors that the source does not have; they are initialized.
        label_names: The classes that the source's head knows, in the order of the logits.
        unused: The names of the source's tensors that the network does not have.
        from_scratch: Whether every tensor is initialized.
        note: A sentence on what was changed in the weights, after a blank; "" for nothing.
    """

    model: PreTrainedModel
    new: frozenset[str]
    label_names: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    from_scratch: bool = False
    note: str = ""


class ModelSource(Protocol):
    """A checkpoint, a file of another library, an architecture or a model object."""

    @property
    def name(self) -> str:
        """What reports and messages call it."""

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The source's own figures for the image processor, by the fields of `models.processor.Preprocessing`.

        They count where the source has no image processor, and replace the figures of ImageNet.
        """

    def load_config(self) -> PreTrainedConfig:
        """Load or build the network's configuration, with the settings of the recipe's `model_config`.

        Raises:
            UserError: The source cannot be read, is no image classifier, or does not know a setting.
        """

    def load_processor(self) -> BaseImageProcessor | None:
        """Load the source's image processor, None where it has none."""

    def load_weights(self, config: PreTrainedConfig) -> LoadedWeights:
        """Build the network of `config` and load the source's weights into it.

        Raises:
            UserError: The weights cannot be read.
        """


@dataclass(frozen=True)
class Architecture:
    """An architecture of Transformers or of this package with random weights.

    Attributes:
        model_type: Its name, such as `resnet`.
        settings: Arguments of its configuration class.
        trust_remote_code: Whether code from a repository may run.
    """

    model_type: str
    settings: Mapping[str, Any]
    trust_remote_code: bool = False

    @property
    def name(self) -> str:
        return self.model_type

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        return {}

    def load_config(self) -> PreTrainedConfig:
        try:
            config = AutoConfig.for_model(self.model_type, **self.settings)
        except ValueError as error:
            known = [config.model_type for config in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING]
            raise UserError(
                f'model_type: there is no architecture "{self.model_type}".{did_you_mean(self.model_type, known)}'
            ) from error
        except (StrictDataclassError, TypeError) as error:
            raise unbuildable(error) from error
        return classifier_config(config, self.settings, self.name)

    def load_processor(self) -> BaseImageProcessor | None:
        return None

    def load_weights(self, config: PreTrainedConfig) -> LoadedWeights:
        return initialize(config, self.trust_remote_code)


def initialize(config: PreTrainedConfig, trust_remote_code: bool) -> LoadedWeights:
    """Build a network with random weights.

    Raises:
        UserError: No network can be built from `config`.
    """
    # Transformers looks through it where a family has several classifiers, as DeiT and LeViT have, and takes the first.
    config.architectures = config.architectures or []
    if config.model_type == "cvt" and any(layers <= stage for stage, layers in enumerate(config.depth)):
        raise UserError(
            f"model_config: depth is {config.depth}, but Transformers builds CvT only with 1 layer or more in its first"
            " stage, 2 or more in the second and 3 or more in the third; use depth: [1, 2, 10]."
        )
    try:
        model = AutoModelForImageClassification.from_config(config, trust_remote_code=trust_remote_code)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise unbuildable(error) from error
    return LoadedWeights(model, frozenset(model.state_dict()), from_scratch=True)


def classifier_config(config: PreTrainedConfig, settings: Mapping[str, Any], name: str) -> PreTrainedConfig:
    """Return the configuration of the image classifier that is made of a network.

    It is the network's own, but for a vision backbone without a classifier: that one gets a linear head on its pooled
    features, and MAE's encoder the head of ViT.

    Args:
        config: The configuration of the network.
        settings: The recipe's `model_config`, which the configuration has; Transformers itself keeps an unknown setting
            and never reads it.
        name: What messages call the network.

    Raises:
        UserError: It is of another kind of network, or a setting is unknown.
    """
    known = {*vars(type(config)()), *type(config).attribute_map} if settings else set()
    for key in settings:
        if key not in known:
            advice = did_you_mean(key, known) or f" Its settings are those of {type(config).__name__}."
            raise UserError(f'model_config: {config.model_type} has no setting "{key}".{advice}')
    has_remote_code = "AutoModelForImageClassification" in (getattr(config, "auto_map", None) or {})
    if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING or has_remote_code:
        return config
    if config.model_type in _SAME_ENCODER:
        keys = {key: value for key, value in config.to_dict().items() if key != "model_type"}
        return _SAME_ENCODER[config.model_type](**keys)
    if _is_vision_backbone(config):
        return PooledBackboneConfig(config)
    raise UserError(
        f'"{name}" is a {config.model_type} model, which is not an image classifier; use one that is, such as'
        " microsoft/resnet-50, or a vision backbone."
    )


def _is_vision_backbone(config: PreTrainedConfig) -> bool:
    """Return whether Transformers has a network of a configuration that takes images and gives features."""
    if type(config) not in MODEL_MAPPING or not (hasattr(config, "hidden_size") or hasattr(config, "hidden_sizes")):
        return False
    network: Any = MODEL_MAPPING[type(config)]
    return bool((network[0] if isinstance(network, (list, tuple)) else network).main_input_name == "pixel_values")


def classifier_class(config: PreTrainedConfig) -> Any:
    """Return Transformers' image classifier for a configuration's class, None if there is none.

    It is a subclass of `PreTrainedModel`; the annotations of its `from_pretrained` leave out `output_loading_info`.
    """
    return MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None)


def new_tensors(info: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the tensors that `from_pretrained` initialized, from its `output_loading_info`.

    The step counters of BatchNorm are left out: old checkpoints lack them, and nothing reads them at a fixed momentum.
    """
    names = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    return frozenset(name for name in names if not name.endswith("num_batches_tracked"))


def unbuildable(error: Exception) -> UserError:
    """Return the error of a configuration that no network can be built from."""
    reason = " ".join(str(error).split()).rstrip(".")
    return UserError(f"model_config: no network can be built from it: {reason}.")


def needs_timm(name: str) -> UserError:
    """Return the error of a network that only the package timm, which is optional, can build."""
    return UserError(f'"{name}" needs the package timm; install it with `pip install "hf-finetune[timm]"`.')
