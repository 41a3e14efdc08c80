"""From the bytes of images to probabilities: images of many requests in one pass through the model.

Threads read the headers; one thread decodes and owns the model, so that neither takes the cores from the other. It
takes the images that wait, up to a batch, and waits for more only a few milliseconds after the first.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_finetune.cores import usable_cores
from hf_finetune.data.image_list import GivenImages, NamedImage
from hf_finetune.data.images.decoding import OpenImage
from hf_finetune.errors import UserError
from hf_finetune.jobs.classifier import Classifier
from hf_finetune.jobs.explain import Explainer
from hf_finetune.jobs.prepared_batches import PreparedBatches
from hf_finetune.logs import get_logger
from hf_finetune.serving.limits import Limits, Refusal

logger = get_logger(__name__)

# How the files begin that are decoded. Pillow would open others too, some of them (EPS) with another program.
_KINDS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_LONGEST = 100  # times the short side: the short side is enlarged to what the model takes, and the long side with it


@dataclass
class _Waiting:
    """An image that waits for the model: the bytes of its file, what errors call it, and whether it is explained."""

    name: str
    content: bytes
    explains: bool
    answer: Future[Any] = field(default_factory=Future)


class Engine:
    """Answers for images, each at its own time, with a model that works on batches.

    Attributes:
        classifier: The model.
        limits: What is refused, and how batches are made.
        explainer: Makes heat maps; None where the model gives none.
        on_batch: Called with the number of images of each batch.
    """

    def __init__(
        self,
        classifier: Classifier,
        limits: Limits,
        explainer: Explainer | None = None,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Start the threads."""
        self.classifier = classifier
        self.limits = limits
        self.explainer = explainer
        self.on_batch = on_batch
        self._queue: queue.Queue[_Waiting | None] = queue.Queue()
        self._headers = ThreadPoolExecutor(usable_cores(), thread_name_prefix="header")
        self._model = threading.Thread(target=self._run, name="model", daemon=True)
        self._model.start()

    @property
    def waiting(self) -> int:
        """How many images wait for the model."""
        return self._queue.qsize()

    def submit(self, name: str, content: bytes, explains: bool = False) -> Future[Future[Any]]:
        """Take an image. Its future gives, when its header is read, that of its answer.

        Args:
            name: What errors call the image.
            content: The bytes of a file.
            explains: Whether the answer is its `Explanation`, in place of its probabilities, float32 (classes,).

        Raises:
            Refusal: In either future, where the image is none that the limits allow, or cannot be read.
        """
        return self._headers.submit(self._admit, name, content, explains)

    def _admit(self, name: str, content: bytes, explains: bool) -> Future[Any]:
        webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
        if not (content.startswith(_KINDS) or webp):
            raise Refusal(422, f"{name} is no JPEG, PNG, WebP, GIF, BMP or TIFF file.")
        try:
            with OpenImage({"bytes": content, "path": name}) as image:
                self._check_size(name, image.height, image.width)
        except UserError as error:
            raise Refusal(422, str(error)) from None
        waiting = _Waiting(name, content, explains)
        self._queue.put(waiting)
        return waiting.answer

    def _check_size(self, name: str, height: int, width: int) -> None:
        if height * width > self.limits.max_pixels:
            limit = f"{self.limits.max_pixels:,}"
            raise Refusal(413, f"{name} has {width:,} x {height:,} pixels; send an image of at most {limit}.")
        if max(height, width) > _LONGEST * min(height, width):
            raise Refusal(422, f"{name} is {width:,} x {height:,} pixels, longer than {_LONGEST} times its short side.")

    def _run(self) -> None:
        for batch in self._batches():
            own = [waiting for waiting in batch if waiting.answer.set_running_or_notify_cancel()]
            for explains in (False, True):
                if some := [waiting for waiting in own if waiting.explains == explains]:
                    self._answer(some, self._explain if explains else self._classify)

    def _classify(self, pixel_values: torch.Tensor) -> Sequence[Any]:
        return self.classifier.probabilities(self.classifier.prepared(pixel_values))  # type: ignore[return-value]

    def _explain(self, pixel_values: torch.Tensor) -> Sequence[Any]:
        assert self.explainer is not None
        return self.explainer.explain(pixel_values)

    def _answer(self, batch: list[_Waiting], answer: Callable[[torch.Tensor], Sequence[Any]]) -> None:
        try:
            for images, pixel_values in self._prepare(batch):
                rows = answer(pixel_values)
                self.on_batch(len(images))
                for waiting, row in zip(images, rows, strict=True):
                    waiting.answer.set_result(row)
        except UserError as error:  # a network without a map of features
            _refuse_rest(batch, Refusal(501, str(error)))
        except Exception as error:  # one batch is lost, and not the server
            logger.error(f"hf-finetune: a batch of {len(batch)} images failed: {error}")
            _refuse_rest(batch, Refusal(503, "The model failed on this image; the log of the server says why."))

    def _prepare(self, batch: list[_Waiting]) -> Iterator[tuple[list[_Waiting], torch.Tensor]]:
        """Yield the images that can be read as the model takes them: together, or each alone where sizes differ."""
        images = [NamedImage(waiting.name, {"bytes": waiting.content, "path": waiting.name}) for waiting in batch]
        try:
            prepared = PreparedBatches(GivenImages(images), self.classifier.stage)[range(len(batch))]
        except Exception:
            if len(batch) == 1:
                raise
            for waiting in batch:
                yield from self._prepare([waiting])
            return
        for place, error in prepared.errors.items():
            batch[place].answer.set_exception(Refusal(422, error))
        if prepared.pixel_values is not None:
            yield (
                [waiting for place, waiting in enumerate(batch) if place not in prepared.errors],
                prepared.pixel_values,
            )

    def _batches(self) -> Iterator[list[_Waiting]]:
        """Yield the images that wait, in batches, until the engine is closed."""
        while (first := self._queue.get()) is not None:
            batch, until = [first], time.monotonic() + self.limits.max_wait_ms / 1000
            while len(batch) < self.limits.batch_size:
                try:
                    more = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if more is None:
                    self._queue.put(None)  # to be met again, when this batch is done
                    break
                batch.append(more)
            yield batch

    def close(self) -> None:
        """Answer what waits, and end the threads."""
        self._headers.shutdown(wait=True)
        self._queue.put(None)
        self._model.join()


def _refuse_rest(batch: list[_Waiting], refusal: Refusal) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(refusal)
