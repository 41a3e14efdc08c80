"""A result folder goes to the Hub, in one commit, and stays safe on disk whatever the Hub does.

The protocol is huggingface_hub's own. What is added is patience, since with its client a 503 on whoami, on the creation
of a repository or on a commit is final, and one line for whatever goes wrong. The token too is the client's affair: it
is read from where `hf auth login` or HF_TOKEN put it, and stands in no message.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, constants, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import logging, validate_repo_id

from hf_finetune.config.recipe import Recipe, to_yaml
from hf_finetune.config.run_files import METRICS_FILE, RECIPE_FILE
from hf_finetune.errors import UserError
from hf_finetune.evaluation.report import to_json
from hf_finetune.hub.redaction import without_private_text
from hf_finetune.logs import get_logger

logger = get_logger(__name__)

# Names of files and folders that stay at home: what only a resume needs, and hidden ones.
_LEFT_OUT = (
    ".*", "checkpoint-*", "corrupt-checkpoint-*", "optimizer*", "rng_state*", "scaler.pt", "scheduler.pt",
    "training_args.bin", "__pycache__",
)  # fmt: skip
_PAUSES = (2, 4, 8, 16, 24)
_PATIENCE = 60  # seconds; some of the client's calls pause by themselves as well, so tries alone would not bound it
_SECONDS_OF_SILENCE = 120  # the client itself would wait for ever for an answer
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)  # those that huggingface_hub's own `http_backoff` takes for such

_Answer = TypeVar("_Answer")


class _PushError(Exception):
    """A push that cannot be; its message is the reason, without the full stop."""


def check_push(
    repo_id: str | None,
    folder: Path,
    private: bool | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Makes sure, before training, that `folder` can be pushed, and returns the repository's full name, OWNER/NAME.

    `repo_id` is OWNER/NAME, or NAME of one's own; None takes the folder's name. Nothing is written: a repository that
    is not there yet is created by the push, so that a run that fails leaves none. Raises `UserError`.
    """
    api = HfApi()
    try:
        repository, account = _log_in(repo_id, folder, sleep)
        if _patiently(lambda: api.repo_exists(repository), sleep):
            _check_existing(repository, private, sleep)
        elif not _may_create(account, repository):
            raise _PushError(
                f"The Hub at {constants.ENDPOINT} does not let this token create {repository}; {_other_token()}"
            )
    except _PushError as error:
        raise UserError(
            f"{error}. To train all the same, leave out --push_to_hub; the model can be pushed later with:"
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
    """Pushes all of a result folder, but checkpoints, optimizer state and hidden files, in one commit.

    A folder that the repository holds already makes no commit. `private` decides when the repository is created;
    True also refuses one that is public. Raises `UserError`, which says how to push later.
    """
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no model; use the folder of a finished run.")
    try:
        repository, _ = _log_in(repo_id, folder, sleep)
        _patiently(lambda: HfApi().create_repo(repository, private=private, exist_ok=True), sleep)
        head = _check_existing(repository, private, sleep).sha
        commit = _patiently(
            # Made anew for each try: a commit whose answer was lost is then found to be there.
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
    url = f"{constants.ENDPOINT}/{repository}"
    if commit.oid == head:
        logger.info(f"{url} holds all of {folder} already; nothing was pushed.")
    else:
        logger.info(f"The model is at {url}, commit {commit.oid[:7]}.")


def _push_command(repo_id: str | None, folder: Path, private: bool | None) -> str:
    words = ["hf-finetune", "push", str(folder), repo_id or folder.resolve().name]
    return shlex.join([*words, "--hub_private_repo"] if private else words)


def _log_in(repo_id: str | None, folder: Path, sleep: Callable[[float], None]) -> tuple[str, Mapping[str, Any]]:
    """Returns the repository's full name and what the Hub says of the account that the token belongs to."""
    name = repo_id or folder.resolve().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        flag = "" if repo_id else "--hub_model_id "
        raise UserError(
            f'"{name}" cannot be the name of a repository, which is made of letters, digits, "-", "_" and ".";'
            f" use {flag}OWNER/NAME, such as me/flowers."
        ) from error
    token = get_token()
    if token is None:
        raise _PushError("There is no token for the Hub; log in with: hf auth login, or set HF_TOKEN")
    if not re.fullmatch("[!-~]+", token):  # the client would show it in its error
        raise _PushError("The token for the Hub holds characters that no token has; log in again with: hf auth login")
    account = _patiently(HfApi().whoami, sleep)
    return name if "/" in name else f"{account['name']}/{name}", account


def _may_create(account: Mapping[str, Any], repository: str) -> bool:
    """Whether the account's token may create a repository; one whose rights the Hub does not tell is let pass."""
    owner = repository.split("/")[0]
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "fineGrained":
        scopes = token.get("fineGrained", {}).get("scoped", [])
        return any(scope["entity"].get("name") == owner and "repo.write" in scope["permissions"] for scope in scopes)
    organizations = [entry["name"] for entry in account.get("orgs", []) if entry.get("roleInOrg") != "read"]
    return token.get("role") != "read" and owner in (account["name"], *organizations)


def _check_existing(repository: str, private: bool | None, sleep: Callable[[float], None]) -> ModelInfo:
    """Makes sure that a repository may be written to and is as private as it should be; returns what it is."""
    api = HfApi()
    _patiently(lambda: api.auth_check(repository, write=True), sleep)  # creating what exists needs no right
    info = _patiently(lambda: api.model_info(repository), sleep)
    if private and not info.private:
        raise _PushError(
            f"{repository} is there already and is public; make it private at"
            f" {constants.ENDPOINT}/{repository}/settings or use another name"
        )
    return info


def _additions(folder: Path, repository: str) -> Iterator[CommitOperationAdd]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        if any(fnmatch(part, pattern) for part in relative.parts for pattern in _LEFT_OUT):
            continue
        yield CommitOperationAdd(
            relative.as_posix(), _public_content(path, repository) if path.parent == folder else path
        )


def _public_content(path: Path, repository: str) -> Path | bytes:
    """Returns a file of the result as others are to see it: by the repository's name, and without this machine's paths.

    The card holds none since it was written.
    """
    if path.name == "README.md":
        text = path.read_text(encoding="utf-8")
        return re.sub(r'(pipeline\([^)\n]*model=)"[^"\n]*"', rf'\1"{repository}"', text).encode()
    if path.name == RECIPE_FILE:
        text = path.read_text(encoding="utf-8")
        comments = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        values = without_private_text(yaml.safe_load(text) or {})
        return (comments + to_yaml(Recipe(path.stem, values, {}))).encode()
    if path.name == METRICS_FILE:
        return to_json(without_private_text(json.loads(path.read_text(encoding="utf-8")))).encode()
    return path


def _patiently(action: Callable[[], _Answer], sleep: Callable[[float], None]) -> _Answer:
    """Returns what `action` returns; where the Hub is down it is tried again, after growing pauses, for a minute.

    Raises `_PushError`.
    """
    start = time.monotonic()
    for pause in (*_PAUSES, None):
        try:
            with _quiet_client():
                return action()
        # Those of the client's two transports, httpx and hf_xet, share no base class with any other of its errors.
        except Exception as error:
            reason, transient = _explain(error)
            if not transient or pause is None or time.monotonic() - start + pause > _PATIENCE:
                raise _PushError(reason) from error
        logger.info(f"{reason}; trying again in {pause} s.")
        sleep(pause)
    raise AssertionError("the last try returns or raises")


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keeps the client from reporting its own tries, and from waiting for ever for an answer."""
    verbosity, session = logging.get_verbosity(), get_session()
    timeout = session.timeout
    logging.set_verbosity_error()
    session.timeout = _SECONDS_OF_SILENCE
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        session.timeout = timeout


def _other_token() -> str:
    return f"use a token that may write there ({constants.ENDPOINT}/settings/tokens), or another name"


def _explain(error: BaseException) -> tuple[str, bool]:
    """Returns what an error of the client means, for people, and whether it may pass."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # "Error while uploading ..."
        error = error.__cause__
    hub = f"The Hub at {constants.ENDPOINT}"
    first_line = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub is not asked; unset it", False
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
        return f"{hub} gives an answer that is none", True
    if any(
        base.__name__ == "TransportError" for base in type(error).__mro__
    ):  # httpx's, by whatever name it is imported
        return f"{hub} cannot be reached ({first_line})", True
    return f"The push failed ({type(error).__name__}: {' '.join(str(error).split())})", False
