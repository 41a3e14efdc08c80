"""Keeps the reports of Transformers off the screen, also where a network is built only to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the warnings, load reports and progress bars of Transformers inside the block."""
    verbosity, progress_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bar:
            logging.enable_progress_bar()


def without_weights(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the network of a configuration without memory for its weights, on the device meta."""
    with torch.device("meta"), quiet_transformers():
        network: PreTrainedModel = AutoModelForImageClassification.from_config(config)
    return network
