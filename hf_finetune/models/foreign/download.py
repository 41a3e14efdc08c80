"""Fetches a file of weights once, and checks it by its SHA-256.

torchvision, timm and MMPretrain end a file's name in the first eight digits of its hash. Such files are kept where
torchvision and MMEngine keep theirs, so that none is fetched twice; others in a folder for their address beside them.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

from hf_finetune.errors import UserError
from hf_finetune.logs import progress_bar

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})(?:\.[a-z]+)+$")
_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")  # a name's 20240131 is no hash
_SECONDS_TO_ANSWER = 10
_CHUNK = 2**20  # bytes


def hash_of_name(name: str) -> str | None:
    """Returns the beginning of a SHA-256 that a file's name ends in, as resnet50-0676ba61.pth does."""
    found = _HASH_IN_NAME.search(name)
    return found[1] if found and not _DATE.fullmatch(found[1]) else None


def check_hash(path: Path, name: str, sha256: str | None) -> None:
    """Raises `UserError` if a file's SHA-256 does not begin with `sha256`, or with what `name` says if that is None."""
    expected = sha256 or hash_of_name(name)
    if expected is None:
        return
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file, progress_bar(total=size, desc="checking", unit="B", delay=2) as bar:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    found = digest.hexdigest()[: len(expected)]
    if found != expected:
        origin, advice = ("load_from_sha256 is", "") if sha256 else ("by its name it is", ", or rename it")
        raise UserError(
            f"load_from: the SHA-256 of {name} begins with {found}, but {origin} {expected}: half a download, or"
            f" another file; get it again{advice}."
        )


def is_url(source: str) -> bool:
    """Whether it is an address rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def fetch(url: str, check: Callable[[Path, str], None]) -> Path:
    """Returns the file at an address, from the cache if it is there.

    `check` is given a file and its name and raises `UserError` for one that is not the right one; of a download, such a
    file is not kept. Raises `UserError` where the file cannot be had whole.
    """
    parts = urlsplit(url)
    name = Path(unquote(parts.path)).name
    if parts.scheme not in ("http", "https") or not name:
        raise UserError(f"load_from: {url} is not the address of a file; use one that begins with https://, or a path.")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if hash_of_name(name) is None:  # two addresses may end in the same name
        folder /= hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / name
    if path.is_file():
        try:
            check(path, name)
        except UserError:
            pass  # damaged, or another hash is asked for; only a file that passes takes its place
        else:
            return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.{uuid.uuid4().hex}.part"  # of this process alone
    try:
        _download(url, name, part)
        check(part, name)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _download(url: str, name: str, path: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "hf_finetune"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER) as answer, path.open("xb") as file:
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
            with progress_bar(total=total, desc=name, unit="B", delay=2) as bar:
                while chunk := answer.read(_CHUNK):
                    bar.update(file.write(chunk))
            if total is not None and file.tell() != total:
                raise UserError(
                    f"load_from: {url} broke off after {file.tell():,} of {total:,} bytes; run the command again."
                )
    except urllib.error.HTTPError as error:
        raise UserError(f"load_from: {url} answers {error.code} ({error.reason}); check the address.") from error
    except OSError as error:
        raise UserError(
            f"load_from: {url} cannot be fetched ({getattr(error, 'reason', error)}); fetch it where there is a"
            " network, and name the file instead of the address."
        ) from error
