"""A checkpoint of Transformers: its name is resolved once, and all that is loaded comes from the same place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_finetune.config.checkpoint_names import resolve_checkpoint
from hf_finetune.errors import UserError
from hf_finetune.models.adapters import check_adapter_is_loaded, merge_loaded_adapter
from hf_finetune.models.head import class_names
from hf_finetune.models.image_size import fit_positions, of_size
from hf_finetune.models.input_channels import fit_channels, of_channels
from hf_finetune.models.pooled_backbone import PooledBackboneConfig, with_head
from hf_finetune.models.quiet import quiet_transformers
from hf_finetune.models.source import LoadedWeights, classifier_config, initialize, needs_timm, new_tensors, unbuildable
from hf_finetune.timeouts import ANSWER_TIMEOUT


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in a folder, on the Hub, or embedded in the package; made by `open_checkpoint`.

    Attributes:
        name: What the user calls it.
        location: Its folder, or its Hub id.
        revision: Branch, tag or commit on the Hub.
        local_files_only: Whether only the local cache is read, because the Hub does not answer.
        trust_remote_code: Whether code that comes with it may run.
        settings: The recipe's `model_config`, which replaces settings of its configuration.
        pretrained: Whether its weights are loaded; without, only its architecture is used.
    """

    name: str
    location: str
    revision: str = "main"
    local_files_only: bool = False
    trust_remote_code: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = True

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        return {}

    @property
    def _access(self) -> dict[str, Any]:
        """What every `from_pretrained` is given."""
        return {
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": self.local_files_only,
        }

    def load_config(self) -> PreTrainedConfig:
        try:
            with quiet_transformers():
                config: PreTrainedConfig = AutoConfig.from_pretrained(self.location, **self._access, **self.settings)
        except ImportError as error:
            raise needs_timm(self.name) from error
        except StrictDataclassError as error:
            raise unbuildable(error) from error
        except (OSError, ValueError) as error:
            raise self._not_loadable(error) from error
        return classifier_config(config, self.settings, self.name)

    def load_processor(self) -> BaseImageProcessor | None:
        """Load the checkpoint's image processor, None where it has none.

        Raises:
            UserError: Its preprocessor_config.json is damaged.
        """
        try:
            with quiet_transformers():
                processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(self.location, **self._access)
        except (OSError, ValueError) as error:  # also where there is no preprocessor_config.json
            if (Path(self.location) / "preprocessor_config.json").is_file():
                raise UserError(
                    f"{self.location}/preprocessor_config.json cannot be read ({str(error).splitlines()[0]}); fix it,"
                    " or remove it and set image_size, image_mean and image_std."
                ) from error
            return None
        return processor

    def load_weights(self, config: PreTrainedConfig) -> LoadedWeights:
        if not self.pretrained:
            return initialize(config, self.trust_remote_code)
        try:
            with quiet_transformers():
                saved = AutoConfig.from_pretrained(self.location, **self._access)
                own_config = classifier_config(saved, {}, self.name)
                sized = of_channels(of_size(config, own_config), own_config)
                model: PreTrainedModel
                check_adapter_is_loaded(self.name, self.location, self.revision, self.local_files_only)
                loading = {"output_loading_info": True, "use_safetensors": True, "dtype": "float32", **self._access}
                if isinstance(sized, PooledBackboneConfig) and not isinstance(saved, PooledBackboneConfig):
                    backbone, info = AutoModel.from_pretrained(self.location, config=sized.vision_config, **loading)
                    model, new = with_head(backbone, sized, new_tensors(info))
                else:
                    model, info = AutoModelForImageClassification.from_pretrained(
                        self.location, config=sized, ignore_mismatched_sizes=True, **loading
                    )
                    new = new_tensors(info)
        except ImportError as error:
            raise needs_timm(self.name) from error
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise self._not_loadable(error) from error
        new, merged = merge_loaded_adapter(model, new)
        model, adapted = fit_channels(model, config)
        model, note = fit_positions(model, config)
        unused = tuple(sorted(info["unexpected_keys"]))
        return LoadedWeights(model, new, tuple(class_names(own_config)), unused, note=merged + adapted + note)

    def _not_loadable(self, error: Exception) -> UserError:
        """Return the one line for an error of `from_pretrained`."""
        name, text, folder = self.name, str(error), Path(self.location)
        if not folder.is_dir() and ("gated repo" in text or "401 Client Error" in text):
            return UserError(
                f'"{name}" is private or gated on the Hub; log in with `hf auth login`, or check the name.'
            )
        if list(folder.glob("*.bin")) and not list(folder.glob("*.safetensors")):
            return UserError(
                f'model_name_or_path: "{name}" has its weights as a pickle (.bin), which may run code and is not'
                " opened; use a checkpoint that has model.safetensors."
            )
        if folder.is_dir():
            reason = text.strip().split("\n")[0].rstrip(".")
            return UserError(
                f'model_name_or_path: the folder "{name}" does not hold a whole checkpoint ({reason}); use one with'
                " config.json and model.safetensors."
            )
        if "model.safetensors" in text:
            return UserError(
                f'model_name_or_path: "{name}" has no model.safetensors on the Hub; use a checkpoint or a'
                " --model_revision that has it."
            )
        if self.local_files_only:
            return UserError(
                f'model_name_or_path: there is no folder "{name}", and the Hub at {constants.ENDPOINT} cannot be'
                f" reached; use a local copy: where there is a network, hf download {name} --local-dir DIR, and here"
                " --model_name_or_path DIR."
            )
        return UserError(
            f'model_name_or_path: there is no folder "{name}", and the Hub has no such model that you may read; check'
            " the name, or log in with: hf auth login"
        )


def open_checkpoint(
    name: str,
    revision: str = "main",
    trust_remote_code: bool = False,
    settings: Mapping[str, Any] | None = None,
    pretrained: bool = True,
) -> Checkpoint:
    """Find out where a checkpoint is and how it can be read. Only the Hub is asked; nothing is downloaded.

    Args:
        name: A Hub id, a folder, or the name of an embedded checkpoint.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code that comes with it may run.
        settings: The recipe's `model_config`.
        pretrained: Whether its weights will be loaded.

    Raises:
        UserError: There is no such folder or embedded checkpoint, and the name is no Hub id.
    """
    location = resolve_checkpoint(name)
    silent = not Path(location).is_dir() and _hub_is_silent(location, revision)
    return Checkpoint(name, location, revision, silent, trust_remote_code, settings or {}, pretrained)


def _hub_is_silent(hub_id: str, revision: str) -> bool:
    """Whether the Hub cannot be reached. An error that it answers with is an answer."""
    try:
        HfApi().model_info(hub_id, revision=revision, timeout=ANSWER_TIMEOUT)
    except HfHubHTTPError:
        return False
    except Exception:  # the client's transport errors share no base class with any other of its errors
        return True
    return False
