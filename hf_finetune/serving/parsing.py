"""Reads the images out of the body of a request."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from hf_finetune.serving.limits import Limits, Refusal
from hf_finetune.serving.schema import TOP_K
from hf_finetune.shown_text import one_line


async def parsed(request: Request, body: bytes, limits: Limits) -> tuple[list[tuple[str, bytes]], int]:
    """Return the images of a request, each with a name, and how many classes are asked for."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        images, top_k = await _of_form(request, body, limits)
    elif kind == "application/json":
        images, top_k = _of_json(body)
    else:
        raise Refusal(422, "The content type is neither multipart/form-data nor application/json.")
    if not images:
        raise Refusal(422, "There is no image; send one or several under the name images.")
    if len(images) > limits.max_images:
        raise Refusal(413, f"There are {len(images)} images; send at most {limits.max_images} at a time.")
    try:
        number = int(top_k)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise Refusal(422, "top_k is no number of at least 1.")
    return images, number


async def _of_form(request: Request, body: bytes, limits: Limits) -> tuple[list[tuple[str, bytes]], Any]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=limits.max_images + 1, max_fields=8)
    parser.spool_max_size = len(body) + 1  # nothing is written to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if "Too many" in error.message else 422
        raise Refusal(status, f"The form is not understood: {one_line(error.message).rstrip('.')}.") from None
    except Exception:  # python_multipart's own, and a lack of a boundary
        raise Refusal(422, "The form is not understood.") from None
    images: list[tuple[str, bytes]] = []
    for value in form.getlist("images"):
        if not isinstance(value, UploadFile):
            raise Refusal(422, "images are files of the form, and one is a text.")
        images.append((_name(value.filename, len(images)), await value.read()))
    return images, form.get("top_k", TOP_K)


def _of_json(body: bytes) -> tuple[list[tuple[str, bytes]], Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(422, "The body is no JSON.") from None
    texts = content.get("images") if isinstance(content, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refusal(422, 'The body is not {"images": [BASE64, ...]}.')
    try:
        images = [(_name(None, row), base64.b64decode(text, validate=True)) for row, text in enumerate(texts)]
    except (binascii.Error, ValueError):
        raise Refusal(422, "An image is not encoded as base64.") from None
    return images, content.get("top_k", TOP_K)


def _name(filename: str | None, row: int) -> str:
    return one_line(filename)[:200] if filename else f"image {row}"
