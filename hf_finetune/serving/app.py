"""The web application: a page, `POST /v1/classify`, `/healthz` and `/metrics`.

Nothing that a request says is a path or an address: images come as bytes, and are neither kept nor fetched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from hf_finetune.jobs.classifier import Classifier
from hf_finetune.serving.engine import Engine
from hf_finetune.serving.limits import Limits, Refusal
from hf_finetune.shown_text import one_line

_PAGE = Path(__file__).with_name("page")
_FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_BYTES_AT_ONCE = 2**29  # of all requests that are being read
_MOST_DISCARDED = 2**28  # bytes that a refused request still sends
_TOP_K = 5
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class ClassScore(BaseModel):
    """A class and its probability."""

    label: str
    score: float = Field(description="The probability, a part of 1.")


class ImageClasses(BaseModel):
    """The likeliest classes of one image, the likeliest first."""

    name: str = Field(description="The name of the file, or image 0, image 1 and so on.")
    predictions: list[ClassScore]


class Answer(BaseModel):
    """The classes of the images of a request, in their order."""

    images: list[ImageClasses]


class Error(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One sentence.")


_ERRORS = {
    408: "The request took too long to arrive.",
    413: "The request or an image is too large.",
    422: "The request is not understood, or an image cannot be read.",
    429: "Too many images wait; try again later.",
    503: "The model failed or took too long, or the server is about to stop.",
}
_REQUEST = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {
                    "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "top_k": {"type": "integer", "minimum": 1, "default": _TOP_K},
                },
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {
                    "images": {"type": "array", "items": {"type": "string", "format": "byte"}},
                    "top_k": {"type": "integer", "minimum": 1, "default": _TOP_K},
                },
            }
        },
    },
}


class _Metrics:
    """What /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("hf_finetune_requests", "Requests by status.", ["status"], registry=self.registry)
        self.seconds = Histogram("hf_finetune_request_seconds", "Seconds of a request.", registry=self.registry)
        self.images = Counter("hf_finetune_images", "Images that the model classified.", registry=self.registry)
        self.batches = Histogram(
            "hf_finetune_batch_images", "Images of a pass.", buckets=_BATCHES, registry=self.registry
        )
        self.waiting = Gauge("hf_finetune_waiting_images", "Images that wait for the model.", registry=self.registry)

    def count(self, images: int) -> None:
        self.images.inc(images)
        self.batches.observe(images)


class _Service:
    """The state of a server: its model, and the requests at this time."""

    def __init__(self, classifier: Classifier, limits: Limits) -> None:
        self.limits = limits
        self.classifier = classifier
        self.metrics = _Metrics()
        self.engine = Engine(classifier, limits, self.metrics.count)
        self.metrics.waiting.set_function(lambda: self.engine.waiting)
        self.requests = self.bytes = 0
        self.stopping = False

    async def classify(self, request: Request) -> Answer:
        """Answer a request. Raises `Refusal`."""
        stream = request.stream()
        try:
            return await self._classify(request, stream)
        except Refusal:
            await self._discard(stream)
            raise

    async def _classify(self, request: Request, stream: AsyncGenerator[bytes, None]) -> Answer:
        if self.stopping:
            raise Refusal(503, "The server is about to stop.")
        if self.requests >= self.limits.max_queue:
            raise Refusal(429, "Too many requests are being answered; try again in a second.")
        self.requests += 1
        read = 0
        try:
            body = bytearray()
            async for chunk in self._chunks(request, stream):
                read += len(chunk)
                self.bytes += len(chunk)
                if self.bytes > _BYTES_AT_ONCE:
                    raise Refusal(429, "Too much is being sent at once; try again in a second.")
                body += chunk
            images, top_k = await _parsed(request, bytes(body), self.limits)
            return await self._answer(images, top_k)
        finally:
            self.bytes -= read
            self.requests -= 1

    async def _discard(self, stream: AsyncGenerator[bytes, None]) -> None:
        """Read what a refused client still sends, without keeping it.

        Most clients read no answer before they have sent all, and lose it if the connection is closed until then.
        """
        left = _MOST_DISCARDED
        with suppress(TimeoutError, ClientDisconnect):
            async with _timeout(self.limits.timeout):
                async for chunk in stream:
                    left -= len(chunk)
                    if left < 0:
                        break

    async def _chunks(self, request: Request, stream: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        """Yield the body of a request, which ends it where it is too long or too slow."""
        most, read = self.limits.max_megabytes * 1_000_000, 0
        too_large = Refusal(413, f"The request is larger than {self.limits.max_megabytes} MB.")
        if int(request.headers.get("content-length") or 0) > most:
            raise too_large
        until = time.monotonic() + self.limits.timeout
        while True:
            try:
                async with _timeout(until - time.monotonic()):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except ClientDisconnect:
                raise Refusal(408, "The connection was closed before the request was complete.") from None
            except TimeoutError:
                raise Refusal(408, f"The request took longer than {self.limits.timeout} s to arrive.") from None
            read += len(chunk)
            if read > most:
                raise too_large
            yield chunk

    async def _answer(self, images: list[tuple[str, bytes]], top_k: int) -> Answer:
        if self.engine.waiting + len(images) > self.limits.max_queue:
            raise Refusal(429, "Too many images wait for the model; try again in a second.")
        choose = self.classifier.choice(top_k, None)
        try:
            async with _timeout(self.limits.timeout):
                rows = await asyncio.gather(*(self._probabilities(name, content) for name, content in images))
        except TimeoutError:
            raise Refusal(503, f"The model took longer than {self.limits.timeout} s; try again later.") from None
        chosen = choose(torch.stack(rows))
        return Answer(
            images=[
                ImageClasses(name=name, predictions=[ClassScore(label=label, score=score) for label, score in classes])
                for (name, _), classes in zip(images, chosen, strict=True)
            ]
        )

    async def _probabilities(self, name: str, content: bytes) -> torch.Tensor:
        answer: Future[torch.Tensor] = await asyncio.wrap_future(self.engine.submit(name, content))
        return await asyncio.wrap_future(answer)


@asynccontextmanager
async def _timeout(seconds: float) -> AsyncIterator[None]:
    """Do as `asyncio.timeout`, which Python 3.10 has not."""
    task, expired = asyncio.current_task(), False

    def expire() -> None:
        nonlocal expired
        expired = True
        assert task is not None
        task.cancel()

    handle = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        yield
    except asyncio.CancelledError:
        if expired:
            raise TimeoutError from None
        raise
    finally:
        handle.cancel()


async def _parsed(request: Request, body: bytes, limits: Limits) -> tuple[list[tuple[str, bytes]], int]:
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
    return images, form.get("top_k", _TOP_K)


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
    return images, content.get("top_k", _TOP_K)


def _name(filename: str | None, row: int) -> str:
    return one_line(filename)[:200] if filename else f"image {row}"


def create_app(classifier: Classifier, limits: Limits, hosts: Collection[str] | None) -> FastAPI:
    """Return the application of a model.

    Args:
        classifier: The model.
        limits: What is refused.
        hosts: The names by which the server may be called; others are refused, so that no page of another site can
            reach a server on this machine under a name of its own. None allows all.
    """
    service = _Service(classifier, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.stopping = True
        await asyncio.to_thread(service.engine.close)

    app = FastAPI(
        title="hf-finetune serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/openapi.json"
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.middleware("http")(_around(service, hosts))

    @app.post(
        "/v1/classify",
        response_model=Answer,
        responses={status: {"model": Error, "description": text} for status, text in _ERRORS.items()},
        openapi_extra={"requestBody": _REQUEST},
    )
    async def classify(request: Request) -> Answer:
        """Return the likeliest classes of one or several images: files of a form, or base64 in JSON."""
        return await service.classify(request)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok"}

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "page.html", media_type="text/html")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> FileResponse:
        if name not in _FILES:
            raise HTTPException(404)
        return FileResponse(_PAGE / name, media_type=_FILES[name])

    return app


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    if error.status in (408, 413):  # the rest of the body is not read
        headers = {"Connection": "close"}
    return JSONResponse({"error": error.message}, error.status, headers)


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": f"{error.detail}."}, error.status_code, error.headers)


def _around(service: _Service, hosts: Collection[str] | None) -> Callable[..., Awaitable[Response]]:
    async def add(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.monotonic()
        if hosts is None or request.url.hostname in hosts:
            response = await call_next(request)
        else:
            response = JSONResponse({"error": f"Use the address of the server: {', '.join(hosts)}."}, 400)
        response.headers.update(_HEADERS)
        if request.url.path == "/v1/classify":
            service.metrics.requests.labels(str(response.status_code)).inc()
            service.metrics.seconds.observe(time.monotonic() - began)
        return response

    return add
