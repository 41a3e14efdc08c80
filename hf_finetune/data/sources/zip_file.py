"""A zip archive of images: unpacked once into the cache folder of `datasets`, then read as the folder that it held."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import datasets

from hf_finetune.errors import UserError, first_line
from hf_finetune.logs import get_logger

logger = get_logger(__name__)


def is_zip(path: Path) -> bool:
    """Whether a path is a zip archive, by its content."""
    return path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path)


def unpack_once(path: Path) -> Path:
    """Return the folder that a zip archive held, unpacked now or by an earlier run of the same archive.

    Nothing is written outside that folder: links, absolute names and names that lead upwards are refused, and so is an
    archive that holds more than the disk has left.

    Args:
        path: The archive.

    Raises:
        UserError: It cannot be unpacked safely, or is damaged.
    """
    found = path.stat()
    key = hashlib.sha256(repr((str(path.absolute()), found.st_size, found.st_mtime_ns)).encode()).hexdigest()[:32]
    cache = Path(datasets.config.HF_DATASETS_CACHE, "hf_finetune")
    folder = cache / f"zip-{key}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
        try:
            _unpack(path, unfinished)
            os.replace(unfinished, folder)
        except OSError:
            if not folder.is_dir():  # else another run has unpacked it in the meantime
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        logger.info(f"{path} is unpacked into {folder}.")
    return _only_folder(folder)


def _unpack(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for member in members:
                _check_member(path, member)
            size, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
            if size > free:
                raise UserError(
                    f"{path} holds {size / 1e9:,.1f} GB, and the disk of {folder.parent} has {free / 1e9:,.1f} GB left;"
                    " set HF_DATASETS_CACHE to a folder on another disk."
                )
            for member in members:
                archive.extract(member, folder)
    except (EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be unpacked: {first_line(error)}; fetch it again.") from error


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise UserError(
            f"{path}: {member.filename} leads out of the archive, which is not unpacked; unpack it yourself."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{path}: {member.filename} is a link, and the archive is not unpacked; unpack it yourself.")
    if member.flag_bits & 1:
        raise UserError(f"{path} is encrypted; unpack it, and use the folder of images that it held.")


def _only_folder(folder: Path) -> Path:
    """Return the folder inside which everything lies: archives often hold one folder, which holds the classes."""
    entries = [entry for entry in folder.iterdir() if entry.name != "__MACOSX" and not entry.name.startswith(".")]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
