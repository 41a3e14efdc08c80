"""What a run does where images have other channels than RGB: how many the network takes, and how they are scaled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig

from hf_finetune.config.data import DataArguments
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.image_channels import describe_other_channels
from hf_finetune.data.images.bands import count_channels
from hf_finetune.data.images.decoding import Decoding
from hf_finetune.data.moments import measure
from hf_finetune.errors import UserError, listing
from hf_finetune.logs import get_logger
from hf_finetune.models.channels import channels_of, image_channels, set_channels
from hf_finetune.models.source import ModelSource

logger = get_logger(__name__)

_MEASURED = 1_000  # training images whose mean and standard deviation are taken, unless they are stated


def settle_channels(config: PreTrainedConfig, data: ImageDataset, arguments: DataArguments, seed: int) -> DataArguments:
    """Let a network take the channels of images that are read as they are stored, and return what they are scaled by.

    Args:
        config: The network's configuration, which is changed.
        data: The dataset.
        arguments: The recipe's `image_mean` and `image_std`; what it does not state is measured on training images,
            unless the network was trained on as many channels, and brings figures of its own.
        seed: Draws the images.

    Returns:
        The arguments, with these figures.

    Raises:
        UserError: The network was trained on images of another kind, or no image can be read.
    """
    channels, own = data.channels, image_channels(config)
    if channels is None:
        if own is not None:
            if (others := describe_other_channels(data, own)) is not None:
                raise UserError(
                    f"{others}, and the network was trained on {own}; use another network, or another dataset."
                )
            raise UserError(
                f"The network was trained on images of {count_channels(own)} as they are stored, and those of"
                f" {data.source} are read as RGB; use --image_channels {own}, or another network."
            )
        return arguments
    set_channels(config, channels)
    config.image_channels = channels
    if own == channels or (arguments.image_mean is not None and arguments.image_std is not None):
        return arguments
    moments = measure(data.splits["train"], _MEASURED, seed, Decoding(channels=channels))
    if not moments.images:
        raise UserError(f"{data.source}: none of {moments.unreadable:,} images of train can be read.")
    found = {"image_mean": rounded(moments.mean), "image_std": rounded(moments.std)}
    constant = [channel + 1 for channel, std in enumerate(found["image_std"]) if std == 0]
    found["image_std"] = [std or 1.0 for std in found["image_std"]]
    measured = [key for key in found if getattr(arguments, key) is None]
    shown = "; ".join(f"{key}: {found[key]}" for key in measured)
    logger.info(f"Measured on {moments.images:,} training images, seed {seed}, in the units of the files: {shown}.")
    if constant and "image_std" in measured:
        logger.warning(f"Note: channels that have one value in all these images (counted from 1): {listing(constant)}.")
    changes: dict[str, Any] = {key: found[key] for key in measured}
    return replace(arguments, **changes)


def as_trained(source: ModelSource, arguments: DataArguments) -> DataArguments:
    """Return arguments by which images are read as they were when a model was trained, unless they state it.

    Args:
        source: Where the model comes from.
        arguments: The arguments of a dataset.

    Raises:
        UserError: The model cannot be had.
    """
    channels = image_channels(source.load_config())
    if channels is None or arguments.image_channels is not None:
        return arguments
    return replace(arguments, image_channels=channels)


def rounded(values: tuple[float, ...]) -> list[float]:
    """Return figures with six significant digits, as they are printed and saved."""
    return [float(f"{value:.6g}") for value in values]


def check_same_channels(model: int | None, data: ImageDataset) -> None:
    """Check that a model sees images as those of a dataset are read.

    Args:
        model: The channels that it was trained on as they are stored, None for RGB.
        data: The dataset.

    Raises:
        UserError: It does not.
    """
    if model == data.channels:
        return
    sees, has = (
        "RGB" if count is None else f"{count_channels(count)} as they are stored" for count in (model, data.channels)
    )
    raise UserError(
        f"The model takes images of {sees}, and those of {data.source} are read as {has}; use another model, or another"
        " dataset."
    )


def check_object(config: PreTrainedConfig, channels: int) -> None:
    """Raise `UserError` where a network that the caller has built takes another number of channels than images have."""
    if channels_of(config) != channels:
        raise UserError(
            f"The model object takes {count_channels(channels_of(config))}, and images have {channels}; build it with"
            f" num_channels={channels}, or give the name of a checkpoint, whose first layer is adapted."
        )
