"""Datasets of the Hub, and what to say where it cannot be reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from hf_finetune.data.catalog import CATALOG, DatasetEntry
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError, did_you_mean, first_line
from hf_finetune.timeouts import ANSWER_TIMEOUT

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w")


def is_hub_id(dataset: str) -> bool:
    """Whether it is written as a Hub id: organization/name."""
    return _HUB_ID.fullmatch(dataset) is not None


def load_from_hub(dataset: str, entry: DatasetEntry | None, config: str | None, revision: str | None) -> RawDataset:
    """Downloads a dataset, or takes it from the datasets cache where the Hub cannot be reached; see `open_on_hub`."""
    splits, commit = open_on_hub(dataset, entry, config, revision, datasets.load_dataset)
    return RawDataset(dict(splits), source=entry.hub_id if entry else dataset, revision=commit)


def open_on_hub(
    dataset: str, entry: DatasetEntry | None, config: str | None, revision: str | None, load: Callable[..., Any]
) -> tuple[Any, str | None]:
    """Returns what `load`, a function of `datasets`, makes of a dataset, and its commit if the Hub could be reached.

    `dataset` is what the user wrote: a Hub id or the catalog's name for `entry`. Raises `UserError`, which says how to
    use a local copy, where there is neither network nor cache, or the Hub refuses.
    """
    hub_id = entry.hub_id if entry else dataset
    local_copy = f"use a local copy: --dataset {dataset} --dataset_path DIR"
    commit = None
    try:
        hub = HfApi(endpoint=datasets.config.HF_ENDPOINT)
        commit = hub.dataset_info(hub_id, revision=revision, timeout=ANSWER_TIMEOUT).sha
        unreachable = None
    except GatedRepoError as error:
        raise UserError(_gated(hub_id, local_copy)) from error
    except RevisionNotFoundError as error:
        raise UserError(f'dataset_revision: {hub_id} has no branch, tag or commit "{revision}" on the Hub.') from error
    except RepositoryNotFoundError as error:
        raise UserError(_not_found(dataset, hub_id)) from error
    except HfHubHTTPError:
        unreachable = None  # the Hub is there but unwell: the download below tries again by itself
    except Exception as error:  # the client's transport errors share no base class with any other of its errors
        unreachable = error

    try:
        with _hub_settings(offline=unreachable is not None):
            loaded = load(hub_id, name=config, revision=revision)
    except DatasetNotFoundError as error:
        message = _gated(hub_id, local_copy) if "gated" in str(error) else _not_found(dataset, hub_id)
        raise UserError(message) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        if unreachable is not None:
            folder = "" if entry else f"there is no folder {dataset}, and "
            raise UserError(
                f"{folder}{hub_id} cannot be fetched: the Hub at {datasets.config.HF_ENDPOINT} cannot be reached"
                f" ({first_line(unreachable)}); {local_copy}{_or_meant(dataset)}"
            ) from error
        # Where the configuration is missing or unknown, the message lists those that there are.
        configs = re.search(r"\[(.+)\]", str(error))
        if isinstance(error, ValueError) and configs:
            what = "several configurations" if config is None else f'no configuration "{config}"'
            raise UserError(f"dataset_config: {hub_id} has {what}; use one of {configs[1]}.") from error
        raise UserError(
            f"{hub_id} cannot be fetched: {first_line(error.__cause__ or error)}; or {local_copy}."
        ) from error
    return loaded, commit


@contextmanager
def _hub_settings(offline: bool) -> Iterator[None]:
    """Sets what `datasets` reads from its configuration alone, and sets it back.

    Its look-up of a Parquet export asks another host than the Hub, for figures that are not needed here; and where the
    Hub has just not answered, it is not asked again.
    """
    config = datasets.config
    before = config.USE_PARQUET_EXPORT, config.HF_HUB_OFFLINE
    config.USE_PARQUET_EXPORT, config.HF_HUB_OFFLINE = False, offline or config.HF_HUB_OFFLINE
    try:
        yield
    finally:
        config.USE_PARQUET_EXPORT, config.HF_HUB_OFFLINE = before


def _or_meant(dataset: str) -> str:
    """Returns the end of a sentence: a name of the catalog that is spelled nearly so, if `dataset` is none."""
    hub_ids = [entry.hub_id for entry in CATALOG.values() if entry.hub_id]
    return "." if dataset in CATALOG or dataset in hub_ids else "." + did_you_mean(dataset, [*CATALOG, *hub_ids])


def _not_found(dataset: str, hub_id: str) -> str:
    return (
        f"dataset: the Hub has no dataset {hub_id} that you may read, and there is no folder of this name; if it is"
        f" private, log in with: hf auth login{_or_meant(dataset)}"
    )


def _gated(hub_id: str, local_copy: str) -> str:
    return (
        f"{hub_id} is gated: ask for access at {datasets.config.HF_ENDPOINT}/datasets/{hub_id} and log in with:"
        f" hf auth login; or {local_copy}."
    )
