"""Datasets of the Hub, and the advice for a user who cannot reach it."""

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
from hf_finetune.data.sources.source import Location
from hf_finetune.errors import UserError, did_you_mean, first_line
from hf_finetune.timeouts import ANSWER_TIMEOUT


def load_from_hub(dataset: str, entry: DatasetEntry | None, config: str | None, revision: str | None) -> RawDataset:
    """Download a dataset, or take it from the cache of `datasets` without the Hub; see `open_on_hub`."""
    splits, commit = open_on_hub(dataset, entry, config, revision, datasets.load_dataset)
    return RawDataset(dict(splits), source=hub_id_of(dataset, entry), revision=commit)


def hub_id_of(dataset: str, entry: DatasetEntry | None) -> str:
    """Return the Hub id of what the user wrote: a Hub id already, or a name of the catalog."""
    return dataset if entry is None or entry.hub_id is None else entry.hub_id


def open_on_hub(
    dataset: str, entry: DatasetEntry | None, config: str | None, revision: str | None, load: Callable[..., Any]
) -> tuple[Any, str | None]:
    """Open a dataset of the Hub.

    Args:
        dataset: What the user wrote: a Hub id, or the catalog's name for `entry`.
        entry: The catalog's entry of a named dataset.
        config: The configuration, None for the catalog's or the only one.
        revision: The branch, tag or commit, None for the newest.
        load: `datasets.load_dataset` or `datasets.load_dataset_builder`.

    Returns:
        What `load` returns, and the commit, None where the Hub could not be reached and the cache was used.

    Raises:
        UserError: The Hub refuses, or can be reached neither directly nor through the cache. The message says how to
            use a local copy.
    """
    hub_id = hub_id_of(dataset, entry)
    config = config or (entry.config_name if entry else None)
    local_copy = f"use a local copy: --dataset {dataset} --dataset_path DIR"
    commit = None
    unreachable: Exception | None = None
    try:
        hub = HfApi(endpoint=datasets.config.HF_ENDPOINT)
        commit = hub.dataset_info(hub_id, revision=revision, timeout=ANSWER_TIMEOUT).sha
    except GatedRepoError as error:
        raise UserError(_gated(hub_id, local_copy)) from error
    except RevisionNotFoundError as error:
        raise UserError(f'dataset_revision: {hub_id} has no branch, tag or commit "{revision}" on the Hub.') from error
    except RepositoryNotFoundError as error:
        raise UserError(_not_found(dataset, hub_id)) from error
    except HfHubHTTPError:
        pass  # the Hub answers with an error of its own; the download below tries again by itself
    except Exception as error:  # the client's network errors share no base class
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
        # Where the configuration is missing or unknown, the message lists the existing ones.
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
    """Change settings that `datasets` reads from its module `config` only, and restore them.

    Its look-up of Parquet exports is switched off: it asks another host for figures that are not needed here. Where
    the Hub has just not answered, `datasets` does not ask it again.
    """
    config = datasets.config
    before = config.USE_PARQUET_EXPORT, config.HF_HUB_OFFLINE
    config.USE_PARQUET_EXPORT, config.HF_HUB_OFFLINE = False, offline or config.HF_HUB_OFFLINE
    try:
        yield
    finally:
        config.USE_PARQUET_EXPORT, config.HF_HUB_OFFLINE = before


def _or_meant(dataset: str) -> str:
    """Return the end of a sentence, with the catalog's name that is nearest to an unknown `dataset`."""
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


def matches(location: Location) -> bool:
    """Return whether a dataset has no path; open.py has checked that it is a Hub id."""
    return location.path is None


def read(location: Location) -> RawDataset:
    """Read the dataset at a location that matches."""
    return load_from_hub(location.dataset, location.entry, location.config, location.revision)
