"""Loads a classifier and gives it a head for the dataset, saying what was reused and what was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
from transformers.utils import logging

from hf_finetune.config.model import ModelArguments
from hf_finetune.errors import UserError, did_you_mean
from hf_finetune.models.foreign.recognition import load_foreign

# Checkpoints that come with the package, by the name that a recipe writes.
EMBEDDED_CHECKPOINTS = {
    folder.name: folder for folder in (Path(__file__).parent / "pretrained").glob("*") if folder.is_dir()
}


_SECONDS_TO_ANSWER = 10  # huggingface_hub's own timeout, but without its five retries, which take another 23 seconds


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for the dataset, which of its tensors are new, and one sentence on its weights."""

    model: PreTrainedModel
    initialized: frozenset[str]
    report: str


@contextmanager
def quiet_transformers():
    """Keeps Transformers' own reports, warnings and bars of loading and saving from the screen."""
    verbosity, progress_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bar:
            logging.enable_progress_bar()


def resolve_checkpoint(name: str) -> str:
    """Returns the folder of an embedded checkpoint's name, or the Hub id or folder as it is."""
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name in EMBEDDED_CHECKPOINTS:
        return str(EMBEDDED_CHECKPOINTS[name])
    if path.is_file() and path.suffix in (".pth", ".pt"):
        raise UserError(
            f"model_name_or_path: {name} is a file of another library's weights; train from it with --load_from {name},"
            f" or make a folder of it: hf-finetune convert {name} {path.stem}"
        )
    if path.is_file() and path.suffix == ".onnx":
        raise UserError(f"{name} is an exported file, which hf-finetune predict runs; use the model's own folder.")
    if path.is_file():
        raise UserError(f"model_name_or_path: {name} is a file; use the folder that it is in: {path.parent}")
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local or "/" not in name:
        raise UserError(
            f'model_name_or_path: there is no checkpoint "{name}".{did_you_mean(name, EMBEDDED_CHECKPOINTS)}'
            " Use a Hub id such as microsoft/resnet-50, or a folder that holds config.json and model.safetensors."
        )
    return name


@cache
def _hub_is_silent(checkpoint: str, revision: str) -> bool:
    """Whether the Hub would have to give this checkpoint and cannot be reached. Any answer is an answer."""
    if Path(checkpoint).is_dir():
        return False
    try:
        HfApi().model_info(checkpoint, revision=revision, timeout=_SECONDS_TO_ANSWER)
    except HfHubHTTPError:
        return False
    except Exception:  # the client's transport errors share no base class with any other of its errors
        return True
    return False


def loading_settings(arguments: ModelArguments) -> dict[str, Any]:
    """Returns what every `from_pretrained` of the checkpoint is given. Where the Hub is silent, the cache must do."""
    silent = _hub_is_silent(resolve_checkpoint(arguments.model_name_or_path), arguments.model_revision)
    return {
        "revision": arguments.model_revision,
        "trust_remote_code": arguments.trust_remote_code,
        "local_files_only": silent,
    }


def _not_loadable(arguments: ModelArguments, error: Exception) -> UserError:
    name, text = arguments.model_name_or_path, str(error)
    if "gated" in text or "401" in text:
        return UserError(f'"{name}" is private or gated on the Hub; log in with `hf auth login`, or check the name.')
    folder = Path(resolve_checkpoint(name))
    if list(folder.glob("*.bin")) and not list(folder.glob("*.safetensors")):
        return UserError(
            f'model_name_or_path: "{name}" has its weights as a pickle (.bin), which may run code and is not opened;'
            " write a checkpoint that has model.safetensors."
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
    if loading_settings(arguments)["local_files_only"]:
        return UserError(
            f'model_name_or_path: there is no folder "{name}", and the Hub at {constants.ENDPOINT} cannot be reached;'
            f" use a local copy: where there is a network, hf download {name} --local-dir DIR, and here"
            " --model_name_or_path DIR."
        )
    return UserError(
        f'model_name_or_path: there is no folder "{name}", and the Hub has no such model that you may read; check the'
        " name, or log in with: hf auth login"
    )


def check_num_labels(arguments: ModelArguments, label_names: Sequence[str]) -> None:
    """Raises `UserError` if the recipe states another number of classes than the dataset has."""
    if arguments.num_labels is not None and arguments.num_labels != len(label_names):
        raise UserError(
            f"num_labels is {arguments.num_labels} but the dataset has {len(label_names)} classes"
            f" ({', '.join(label_names[:5])}{', ...' if len(label_names) > 5 else ''}); use --num_labels"
            f" {len(label_names)}, or null to follow the dataset."
        )


def load_config(arguments: ModelArguments, label_names: Sequence[str] | None) -> PreTrainedConfig:
    """Loads or builds the network's configuration, with a head for `label_names` (class ids are their positions).

    Raises `UserError` for a checkpoint that cannot be had or is not an image classifier.
    """
    if arguments.load_from is not None:
        foreign = load_foreign(arguments.load_from, arguments.load_from_sha256)
        if arguments.model_type not in (None, foreign.model_type):
            raise UserError(
                f"load_from: {foreign.description} is of model_type {foreign.model_type}, but the recipe's is"
                f" {arguments.model_type}; use --model_type null to take the file's."
            )
        try:
            config = AutoConfig.for_model(foreign.model_type, **{**foreign.settings, **(arguments.model_config or {})})
        except ImportError as error:
            raise UserError(_missing_package(arguments.load_from)) from error
        except (StrictDataclassError, TypeError) as error:
            raise _does_not_fit(error) from error
    elif arguments.model_type is not None:
        if arguments.model_name_or_path is not None:
            raise UserError(
                f"model_type {arguments.model_type} and model_name_or_path {arguments.model_name_or_path} exclude each"
                " other; keep one and write null for the other."
            )
        try:
            config = AutoConfig.for_model(arguments.model_type, **(arguments.model_config or {}))
        except ValueError as error:
            known = [config.model_type for config in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING]
            raise UserError(
                f'model_type: there is no architecture "{arguments.model_type}".'
                f"{did_you_mean(arguments.model_type, known)}"
            ) from error
        except (StrictDataclassError, TypeError) as error:
            raise _does_not_fit(error) from error
    elif arguments.model_name_or_path is None:
        raise UserError("There is no model; use --model_name_or_path microsoft/resnet-50, or --recipe NAME.")
    else:
        checkpoint = resolve_checkpoint(arguments.model_name_or_path)
        try:
            with quiet_transformers():
                config = AutoConfig.from_pretrained(
                    checkpoint, **loading_settings(arguments), **(arguments.model_config or {})
                )
        except ImportError as error:
            raise UserError(_missing_package(arguments.model_name_or_path)) from error
        except StrictDataclassError as error:
            raise _does_not_fit(error) from error
        except (OSError, ValueError) as error:
            raise _not_loadable(arguments, error) from error
    has_remote_code = "AutoModelForImageClassification" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING and not has_remote_code:
        raise UserError(
            f'"{arguments.model_name_or_path or arguments.model_type}" is a {config.model_type} model, which is not an'
            " image classifier; use one that is, such as microsoft/resnet-50."
        )
    if arguments.model_config:
        _check_model_config(arguments.model_config, config)
    if label_names is not None:
        config.num_labels = len(label_names)
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: position for position, name in enumerate(label_names)}
    return config


def _check_model_config(settings: Mapping[str, Any], config: PreTrainedConfig) -> None:
    """Raises `UserError` for a setting that the configuration's class has not, which Transformers keeps unread."""
    known = {*vars(type(config)()), *type(config).attribute_map}
    for key in settings:
        if key not in known:
            advice = did_you_mean(key, known) or f" Its settings are those of {type(config).__name__}."
            raise UserError(f'model_config: {config.model_type} has no setting "{key}".{advice}')


def _does_not_fit(error: Exception) -> UserError:
    reason = " ".join(str(error).split()).rstrip(".")
    return UserError(f"model_config: no network can be built from it: {reason}.")


def _missing_package(name: str) -> str:
    return f'"{name}" needs the package timm; install it with `pip install "hf-finetune[timm]"`.'


def head_parameter_names(model: PreTrainedModel) -> set[str]:
    """Returns the names of the parameters that belong to the classification head: all outside the backbone."""
    names = [name for name, _ in model.named_parameters()]
    if model.config.model_type == "timm_wrapper":  # everything is inside timm's module there, head included
        head = {id(parameter) for parameter in model.timm_model.get_classifier().parameters()}
        return {name for name, parameter in model.named_parameters() if id(parameter) in head}
    return {name for name in names if not name.startswith(f"{model.base_model_prefix}.")}


def _initialize_head(model: PreTrainedModel) -> None:
    head = head_parameter_names(model)
    for name, module in model.named_modules():
        owns_head = any(f"{name}.{own}" in head for own, _ in module.named_parameters(recurse=False))
        if owns_head and hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _from_checkpoint(
    arguments: ModelArguments, config: PreTrainedConfig
) -> tuple[PreTrainedModel, dict[str, Any], PreTrainedConfig]:
    """Returns the network, what Transformers says of the loading, and the checkpoint's own configuration."""
    checkpoint = resolve_checkpoint(arguments.model_name_or_path)
    try:
        with quiet_transformers():
            model, info = AutoModelForImageClassification.from_pretrained(
                checkpoint,
                config=config,
                **loading_settings(arguments),
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                use_safetensors=True,
                dtype="float32",
            )
            original = AutoConfig.from_pretrained(checkpoint, **loading_settings(arguments))
    except ImportError as error:
        raise UserError(_missing_package(arguments.model_name_or_path)) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _not_loadable(arguments, error) from error
    return model, info, original


def _from_file(
    arguments: ModelArguments, config: PreTrainedConfig
) -> tuple[str, PreTrainedModel, dict[str, Any], PreTrainedConfig]:
    """Returns what the file is, the network, what was not loaded, and the configuration of the file's network."""
    foreign = load_foreign(arguments.load_from, arguments.load_from_sha256)
    load_foreign.cache_clear()  # the network takes the tensors themselves, and training changes them
    try:
        with quiet_transformers():
            model, info = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)].from_pretrained(
                None,
                config=config,
                state_dict=foreign.state_dict,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype="float32",
            )
    except ImportError as error:
        raise UserError(_missing_package(arguments.load_from)) from error
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _does_not_fit(error) from error
    if info["unexpected_keys"]:
        raise UserError(
            f"load_from: {foreign.description} does not fit: {len(info['unexpected_keys'])} of its tensors are not in"
            f" {type(model).__name__}, the first is {min(info['unexpected_keys'])}; check model_config."
        )
    info["unexpected_keys"] = foreign.unused
    return foreign.description, model, info, AutoConfig.for_model(foreign.model_type, **foreign.settings)


def load_model(
    arguments: ModelArguments, config: PreTrainedConfig, label_names: Sequence[str], seed: int
) -> LoadedModel:
    """Builds the network of `config`; its backbone is the checkpoint's, its head is new unless it knows these classes.

    Whatever is new is initialized from `seed`. Raises `UserError` if weights other than the head's are missing from the
    checkpoint or have another shape there.
    """
    set_seed(seed)
    if arguments.load_from is not None:
        name, model, info, original = _from_file(arguments, config)
    elif arguments.model_type is not None or not arguments.pretrained:
        try:
            model = AutoModelForImageClassification.from_config(config, trust_remote_code=arguments.trust_remote_code)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise _does_not_fit(error) from error
        names = frozenset(model.state_dict())
        return LoadedModel(model, names, f"{type(model).__name__}: all {len(names)} tensors initialized, seed {seed}.")
    else:
        name = arguments.model_name_or_path
        model, info, original = _from_checkpoint(arguments, config)
    new = set(info["missing_keys"]) | {entry[0] for entry in info["mismatched_keys"]}
    new = {key for key in new if not key.endswith("num_batches_tracked")}
    head = head_parameter_names(model)
    if new - head:
        raise UserError(
            f'"{name}" does not fit: {len(new - head)} tensors besides the head are missing or have another shape,'
            f" the first is {min(new - head)}; check model_config"
            f"{', or use --pretrained false for random weights' if arguments.load_from is None else ''}."
        )
    known_names = [original.id2label.get(position) for position in range(len(label_names))]
    if not new and known_names != list(label_names):
        _initialize_head(model)  # as many classes, but others: their weights mean nothing here
        new = head
    reused = len(model.state_dict()) - len(new)
    unexpected = sorted(info["unexpected_keys"])
    named = ", ".join(unexpected[:5]) + (", ..." if len(unexpected) > 5 else "")
    unused = f", {len(unexpected)} of the checkpoint not used ({named})" if unexpected else ""
    heads = f"{len(new)} of the head initialized for {len(label_names)} classes" if new else "the head kept"
    return LoadedModel(model, frozenset(new), f"{name}: {reused} tensors reused, {heads}{unused}.")


def load_trained(arguments: ModelArguments) -> PreTrainedModel:
    """Loads a classifier as it was saved, head included, in evaluation mode.

    Raises `UserError` for a checkpoint that cannot be had, is not a classifier or lacks weights.
    """
    config = load_config(arguments, label_names=None)
    loaded = load_model(arguments, config, [config.id2label[position] for position in range(config.num_labels)], seed=0)
    if loaded.initialized:
        raise UserError(f'"{arguments.model_name_or_path}" has no trained head; fine-tune it first: hf-finetune train.')
    return loaded.model.eval()
