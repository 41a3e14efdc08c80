"""The web application: a page, `POST /v1/classify`, `POST /v1/explain`, `/healthz` and `/metrics`.

Nothing that a request says is a path or an address: images come as bytes, and are neither kept nor fetched.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hf_finetune.errors import UserError
from hf_finetune.evaluation.overlays import enlarged, overlay
from hf_finetune.jobs.classifier import Classifier
from hf_finetune.jobs.explain import Explainer, ExplainSettings
from hf_finetune.jobs.explanation import Explanation
from hf_finetune.serving.engine import Engine
from hf_finetune.serving.limits import Limits, Refusal
from hf_finetune.serving.parsing import parsed
from hf_finetune.serving.schema import (
    CLASSIFY_REQUEST,
    ERRORS,
    EXPLAIN_REQUEST,
    NO_HEAT_MAPS,
    Answer,
    ClassScore,
    HeatMapAnswer,
    ImageClasses,
    ImageHeatMap,
    described,
)

_T = TypeVar("_T")

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
_COUNTED = ("/v1/classify", "/v1/explain")  # requests that /metrics counts
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


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


_Answering = Callable[[list[tuple[str, bytes]], int], Awaitable[_T]]
"""Answers the images of a request, of which so many classes are asked for."""


class _Service:
    """The state of a server: its model, and the requests at this time."""

    def __init__(self, classifier: Classifier, limits: Limits) -> None:
        self.limits = limits
        self.classifier = classifier
        self.metrics = _Metrics()
        self.no_heat_maps = ""  # why
        explainer = None
        try:
            explainer = Explainer(classifier, ExplainSettings())
        except UserError as error:
            self.no_heat_maps = str(error)
        self.engine = Engine(classifier, limits, explainer, self.metrics.count)
        self.metrics.waiting.set_function(lambda: self.engine.waiting)
        self.requests = self.bytes = 0
        self.stopping = False

    async def classify(self, request: Request) -> Answer:
        """Answer with the classes of the images of a request. Raises `Refusal`."""
        return await self._served(request, self._classes)

    async def explain(self, request: Request) -> HeatMapAnswer:
        """Answer with the heat maps of the images of a request. Raises `Refusal`."""
        return await self._served(request, self._heat_maps)

    async def _served(self, request: Request, answer: _Answering[_T]) -> _T:
        stream = request.stream()
        try:
            return await self._read_and_answer(request, stream, answer)
        except Refusal:
            await self._discard(stream)
            raise

    async def _read_and_answer(
        self, request: Request, stream: AsyncGenerator[bytes, None], answer: _Answering[_T]
    ) -> _T:
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
            return await answer(*await parsed(request, bytes(body), self.limits))
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

    async def _classes(self, images: list[tuple[str, bytes]], top_k: int) -> Answer:
        choose = self.classifier.choice(top_k, None)
        chosen = choose(torch.stack(await self._asked(images, explains=False)))
        return Answer(
            images=[
                ImageClasses(name=name, predictions=[ClassScore(label=label, score=score) for label, score in classes])
                for (name, _), classes in zip(images, chosen, strict=True)
            ]
        )

    async def _heat_maps(self, images: list[tuple[str, bytes]], _: int) -> HeatMapAnswer:
        if self.no_heat_maps:
            raise Refusal(501, self.no_heat_maps)
        explanations = await self._asked(images, explains=True)
        return await asyncio.to_thread(_drawn, [name for name, _ in images], explanations)

    async def _asked(self, images: list[tuple[str, bytes]], explains: bool) -> list[Any]:
        """Return what the engine answers for each image; see `Engine.submit`."""
        if self.engine.waiting + len(images) > self.limits.max_queue:
            raise Refusal(429, "Too many images wait for the model; try again in a second.")
        try:
            async with _timeout(self.limits.timeout):
                return await asyncio.gather(*(self._one(name, content, explains) for name, content in images))
        except TimeoutError:
            raise Refusal(503, f"The model took longer than {self.limits.timeout} s; try again later.") from None

    async def _one(self, name: str, content: bytes, explains: bool) -> Any:
        answer: Future[Any] = await asyncio.wrap_future(self.engine.submit(name, content, explains))
        return await asyncio.wrap_future(answer)


def _drawn(names: list[str], explanations: list[Explanation]) -> HeatMapAnswer:
    images = []
    for name, found in zip(names, explanations, strict=True):
        assert found.view is not None and found.heat_map is not None
        file = io.BytesIO()
        overlay(enlarged(found.view), found.heat_map).save(file, "PNG")
        images.append(
            ImageHeatMap(
                name=name,
                label=found.label,
                score=found.score,
                method=found.method,
                layer=found.layer,
                nothing_found=found.nothing_found,
                overlay=base64.b64encode(file.getvalue()).decode(),
            )
        )
    return HeatMapAnswer(images=images)


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
        responses=described(ERRORS),
        openapi_extra=CLASSIFY_REQUEST,
    )
    async def classify(request: Request) -> Answer:
        """Return the likeliest classes of one or several images: files of a form, or base64 in JSON."""
        return await service.classify(request)

    @app.post(
        "/v1/explain",
        response_model=HeatMapAnswer,
        responses=described(ERRORS | NO_HEAT_MAPS),
        openapi_extra=EXPLAIN_REQUEST,
        include_in_schema=not service.no_heat_maps,
    )
    async def explain(request: Request) -> HeatMapAnswer:
        """Return where the model finds the likeliest class of one or several images, as PNG files."""
        return await service.explain(request)

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
    if error.status in (408, 413):  # there may be more of the body than is read
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
        if request.url.path in _COUNTED:
            service.metrics.requests.labels(str(response.status_code)).inc()
            service.metrics.seconds.observe(time.monotonic() - began)
        return response

    return add
