"""Downloads a file of weights once and checks its SHA-256.

The names of torchvision's, timm's and MMPretrain's files end in the first eight digits of their hash. Such files are
kept in the folder of torch.hub, which torchvision and MMEngine use too; others in a folder beside them, one for each
address.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

from hf_finetune.errors import UserError
from hf_finetune.logs import progress_bar
from hf_finetune.timeouts import ANSWER_TIMEOUT

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})(?:\.[a-z]+)+$")
_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")  # 20240131 in a name is a date and no hash
_CHUNK = 2**20  # bytes


def hash_of_name(name: str) -> str | None:
    """Return the beginning of the SHA-256 in a file's name, 0676ba61 of resnet50-0676ba61.pth, or None."""
    found = _HASH_IN_NAME.search(name)
    return found[1] if found and not _DATE.fullmatch(found[1]) else None


def check_hash(path: Path, name: str, sha256: str | None) -> None:
    """Check a file's SHA-256, if it is known.

    Args:
        path: The file.
        name: The name it was published under, which may contain the beginning of its hash.
        sha256: The beginning of the hash, which takes precedence over the name's.

    Raises:
        UserError: The hash is another one.
    """
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
            f"load_from: the SHA-256 of {name} begins with {found}, but {origin} {expected}: an incomplete download, or"
            f" another file; get it again{advice}."
        )


def is_url(source: str) -> bool:
    """Whether `source` is an address rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def fetch(url: str, check: Callable[[Path, str], None]) -> Path:
    """Return the path of the file at an address, downloading it unless it is in the cache.

    Args:
        url: The address, http or https.
        check: Is given a file and its name, and raises `UserError` for a wrong file. A wrong download is not kept.

    Raises:
        UserError: The address is not one of a file, the download failed, or it is a wrong file.
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
            pass  # damaged, or another hash is wanted; only a download that passes the check replaces it
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
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), headers={"User-Agent": "hf_finetune"})
    if user:  # not sent to where the address is redirected
        request.add_unredirected_header("Authorization", f"Basic {b64encode(unquote(user).encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT) as answer, path.open("xb") as file:
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
    except (OSError, HTTPException, ValueError) as error:  # the last two where the address is malformed
        raise UserError(
            f"load_from: {url} cannot be fetched ({getattr(error, 'reason', error)}); fetch it where there is a"
            " network, and name the file instead of the address."
        ) from error
