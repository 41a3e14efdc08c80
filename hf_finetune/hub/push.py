"""Pushes a result folder to the Hub in one commit.

huggingface_hub's client does the transfer. This module adds retries, because the client gives up at the first 503 of
whoami, of the creation of a repository and of a commit, and it turns each failure into one line. The client also reads
the token, from where `hf auth login` or HF_TOKEN put it; no message contains it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, constants, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import logging, validate_repo_id

from hf_finetune.config.recipe import Recipe, to_yaml
from hf_finetune.config.run_files import METRICS_FILE, RECIPE_FILE
from hf_finetune.errors import UserError, listing
from hf_finetune.evaluation.report import to_json
from hf_finetune.hub.files import kept_back, left_out, pushed_files
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.interrupts import raised_interrupts
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

_PAUSES = (2, 4, 8, 16, 24)  # seconds between the tries
_MOST_SECONDS = 60  # of all tries together; some of the client's calls retry too, so their number is no bound
_ANSWER_TIMEOUT = 120  # seconds; the client has no timeout of its own
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)  # as in huggingface_hub's own `http_backoff`

_Answer = TypeVar("_Answer")


class _PushError(Exception):
    """A push failed. The message is the reason, without a full stop."""


def check_push(
    repo_id: str | None,
    folder: Path,
    private: bool | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Check before training that a folder can be pushed.

    Nothing is written: the push itself creates a repository, so a run that fails leaves none.

    Args:
        repo_id: OWNER/NAME, or NAME of a repository of the user's own. None takes the folder's name.
        folder: The result folder.
        private: As in `push_folder`.
        sleep: Waits so many seconds between tries.

    Returns:
        The repository's full name, OWNER/NAME.

    Raises:
        UserError: If the name is not valid, the Hub cannot be reached, or the token may not write there.
    """
    api = HfApi()
    try:
        repository, account = _log_in(repo_id, folder, sleep)
        if _retry(lambda: api.repo_exists(repository), sleep):
            _check_existing(repository, private, sleep)
        elif not _may_create(account, repository):
            raise _PushError(
                f"The Hub at {constants.ENDPOINT} does not let this token create {repository}; {_other_token()}"
            )
    except _PushError as error:
        raise UserError(
            f"{error}. To train without pushing, leave out --push_to_hub; to push the model later:"
            f" {_push_command(repo_id, folder, private)}"
        ) from error
    logger.info(f"Hub: the model will be pushed to {constants.ENDPOINT}/{repository}")
    return repository


def push_folder(
    folder: Path,
    repo_id: str,
    private: bool | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Push the files of a result folder that the run wrote (`pushed_files`) in one commit.

    What else lies there, and links, are named in the log and stay. There is no commit if the repository has the same
    files already. In the pushed copies, `recipe.yaml` and `metrics.json` contain no paths of this machine.

    Args:
        folder: The result folder.
        repo_id: OWNER/NAME, or NAME of a repository of the user's own.
        private: Whether a new repository is private; None takes the account's default. True also refuses a repository
            that exists and is public.
        sleep: Waits so many seconds between tries.

    Raises:
        UserError: If the push fails. The message says how to push later.
    """
    _check_model(folder)
    try:
        with raised_interrupts():
            repository, _ = _log_in(repo_id, folder, sleep)
            _retry(lambda: HfApi().create_repo(repository, private=private, exist_ok=True), sleep)
            head = _check_existing(repository, private, sleep).sha
            commit = _retry(
                # The file list is made for each try: if only the answer was lost, the next try finds the files there.
                lambda: HfApi().create_commit(
                    repository, _additions(folder, repository), commit_message="Push a model of hf-finetune"
                ),
                sleep,
            )
    except (_PushError, KeyboardInterrupt) as error:
        raise UserError(
            f"{str(error) or 'The push was interrupted'}. The model is safe in {folder}; to push it later:"
            f" {_push_command(repo_id, folder, private)}"
        ) from error
    if shows_data := kept_back(folder):
        names = ", ".join(shows_data)
        logger.info(f"Not pushed, because they show the data: {names}; use hf upload if all may see them.")
    others = left_out(folder)
    if others:
        logger.warning(f"Note: not pushed, because the run did not write it: {listing(others)}.")
    url = f"{constants.ENDPOINT}/{repository}"
    if commit.oid == head:
        logger.info(f"{url} already has all files of {folder}; nothing was pushed.")
    else:
        logger.info(f"The model is at {url}, commit {commit.oid[:7]}.")


def _check_model(folder: Path) -> None:
    names = {path.name for path in pushed_files(folder)} if folder.is_dir() else set()
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return
    links = [name for name in ("config.json", "model.safetensors") if (folder / name).is_symlink()]
    if links:
        raise UserError(
            f"{folder}: {listing(links)} {'is a link' if len(links) == 1 else 'are links'}, and what links point to is"
            " not pushed; copy the folder with: cp -rL"
        )
    raise UserError(f"{folder} holds no model; use the folder of a finished run.")


def _push_command(repo_id: str | None, folder: Path, private: bool | None) -> str:
    words = ["hf-finetune", "push", str(folder), repo_id or folder.resolve().name]
    return shlex.join([*words, "--hub_private_repo"] if private else words)


def _log_in(repo_id: str | None, folder: Path, sleep: Callable[[float], None]) -> tuple[str, Mapping[str, Any]]:
    """Return the repository's full name, and the Hub's description of the token's account."""
    name = repo_id or folder.resolve().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        flag = "" if repo_id else "--hub_model_id "
        raise UserError(
            f'"{name}" cannot be the name of a repository, which consists of letters, digits, "-", "_" and ".";'
            f" use {flag}OWNER/NAME, such as me/flowers."
        ) from error
    token = get_token()
    if token is None:
        raise _PushError("There is no token for the Hub; log in with: hf auth login, or set HF_TOKEN")
    if not re.fullmatch("[!-~]+", token):  # the client would show it in its error
        raise _PushError("The token for the Hub has characters that no token has; log in again with: hf auth login")
    account = _retry(HfApi().whoami, sleep)
    return name if "/" in name else f"{account['name']}/{name}", account


def _may_create(account: Mapping[str, Any], repository: str) -> bool:
    """Return whether the token may create a repository. A token whose rights the Hub does not state may."""
    owner = repository.split("/")[0]
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "fineGrained":
        scopes = token.get("fineGrained", {}).get("scoped", [])
        return any(scope["entity"].get("name") == owner and "repo.write" in scope["permissions"] for scope in scopes)
    organizations = [entry["name"] for entry in account.get("orgs", []) if entry.get("roleInOrg") != "read"]
    return token.get("role") != "read" and owner in (account["name"], *organizations)


def _check_existing(repository: str, private: bool | None, sleep: Callable[[float], None]) -> ModelInfo:
    """Return the Hub's description of a repository, after checks that it is writable and as private as asked."""
    api = HfApi()
    _retry(
        lambda: api.auth_check(repository, write=True), sleep
    )  # create_repo succeeds without it where the repository exists
    info = _retry(lambda: api.model_info(repository), sleep)
    if private and not info.private:
        raise _PushError(
            f"{repository} exists and is public; make it private at"
            f" {constants.ENDPOINT}/{repository}/settings or use another name"
        )
    return info


def _additions(folder: Path, repository: str) -> Iterator[CommitOperationAdd]:
    for path in pushed_files(folder):
        yield CommitOperationAdd(path.name, _public_content(path, repository))


def _public_content(path: Path, repository: str) -> Path | bytes:
    """Return what is pushed of a file: with the repository's name in the card, and without paths of this machine.

    `write_model_card` has already left them out of the card.
    """
    if path.name == "README.md":
        text = path.read_text(encoding="utf-8")
        return re.sub(r'(pipeline\([^)\n]*model=|\bpredict\()"(?:[^"\\\n]|\\.)*"', rf'\1"{repository}"', text).encode()
    if path.name == RECIPE_FILE:
        text = path.read_text(encoding="utf-8")
        comments = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        values = without_private_text(yaml.safe_load(text) or {})
        return (comments + to_yaml(Recipe(path.stem, values, {}))).encode()
    if path.name == METRICS_FILE:
        return to_json(without_private_text(json.loads(path.read_text(encoding="utf-8")))).encode()
    return path


def _retry(action: Callable[[], _Answer], sleep: Callable[[float], None]) -> _Answer:
    """Return what `action` returns. While the Hub is down, retry after growing pauses for up to a minute.

    Raises:
        _PushError: If the last try fails, or a retry cannot help.
    """
    start = time.monotonic()
    for pause in (*_PAUSES, None):
        try:
            with _quiet_client():
                return action()
        except Exception as error:  # the errors of the client and of its transports share no base class
            reason, transient = _explain(error)
            if not transient or pause is None or time.monotonic() - start + pause > _MOST_SECONDS:
                raise _PushError(reason) from error
        logger.info(f"{reason}; next try in {pause} s.")
        sleep(pause)
    raise AssertionError("the last try returns or raises")


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Silence the client's reports of its own retries, and give its requests a timeout."""
    verbosity, session = logging.get_verbosity(), get_session()
    timeout = session.timeout
    logging.set_verbosity_error()
    session.timeout = _ANSWER_TIMEOUT
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        session.timeout = timeout


def _other_token() -> str:
    return f"use a token that may write there ({constants.ENDPOINT}/settings/tokens), or another name"


def _explain(error: BaseException) -> tuple[str, bool]:
    """Return what an error of the client means, for people, and whether a retry may help."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # "Error while uploading ..."
        error = error.__cause__
    hub = f"The Hub at {constants.ENDPOINT}"
    first_line = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing is sent to the Hub; unset it", False
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in _TRANSIENT_STATUS:
            return f"{hub} answers {status}, {HTTPStatus(status).phrase}", True
        said = (error.server_message or first_line).split("\n")[0].rstrip(".")
        if status == HTTPStatus.UNAUTHORIZED and not isinstance(error, RepositoryNotFoundError):
            place, remedy = "", "log in again with: hf auth login --force"
            if "HF_TOKEN" in os.environ:
                place, remedy = " in HF_TOKEN", "set it to another, or unset it and log in with: hf auth login"
            return f"{hub} does not accept the token{place}; {remedy}", False
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            return f"{hub} does not let this token write: {said}; {_other_token()}", False
        return f"{hub} refuses the push ({status}): {said}", False
    if isinstance(error, json.JSONDecodeError):
        return f"{hub} gives an answer that is not JSON", True
    # httpx's class, by its name: the client may bring its own copy of httpx.
    if any(base.__name__ == "TransportError" for base in type(error).__mro__):
        return f"{hub} cannot be reached ({first_line})", True
    return f"The push failed ({type(error).__name__}: {' '.join(str(error).split())})", False
