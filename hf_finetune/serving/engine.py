"""From the bytes of images to probabilities: images of many requests in one pass through the model.

Threads decode; one thread owns the model. It takes the images that wait, up to a batch, and waits for more only a few
milliseconds after the first.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from hf_finetune.cores import usable_cores
from hf_finetune.data.device import DeviceStage
from hf_finetune.data.images.decoding import OpenImage, UnreadableImage
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.errors import UserError
from hf_finetune.jobs.classifier import Classifier
from hf_finetune.logs import get_logger
from hf_finetune.serving.limits import Limits, Refusal

logger = get_logger(__name__)

# How the files begin that are decoded. Pillow would open others too, some of them (EPS) with another program.
_KINDS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_LONGEST = 100  # times the short side: the short side is enlarged to what the model takes, and the long side with it


@dataclass
class _Waiting:
    """An image that waits for the model, float32 or uint8 (1, channels, height, width)."""

    pixel_values: torch.Tensor
    answer: Future[torch.Tensor] = field(default_factory=Future)


class Engine:
    """Answers for images, each at its own time, with a model that works on batches.

    Attributes:
        classifier: The model.
        limits: What is refused, and how batches are made.
        on_batch: Called with the number of images of each batch.
    """

    def __init__(
        self, classifier: Classifier, limits: Limits, on_batch: Callable[[int], None] = lambda _: None
    ) -> None:
        """Start the threads."""
        self.classifier = classifier
        self.limits = limits
        self.on_batch = on_batch
        self._stage = EvaluationStage(classifier.image_processor, uniform=False)
        self._device_stage = DeviceStage(classifier.image_processor, uniform=False)
        self._queue: queue.Queue[_Waiting | None] = queue.Queue()
        self._decoders = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
        self._model = threading.Thread(target=self._run, name="model", daemon=True)
        self._model.start()

    @property
    def waiting(self) -> int:
        """How many images wait for the model."""
        return self._queue.qsize()

    def submit(self, name: str, content: bytes) -> Future[Future[torch.Tensor]]:
        """Take an image. Its future gives, when it is decoded, that of its probabilities, float32 (classes,).

        Args:
            name: What errors call the image.
            content: The bytes of a file.

        Raises:
            Refusal: In the future, where the image is none that the limits allow.
        """
        return self._decoders.submit(self._decode, name, content)

    def _decode(self, name: str, content: bytes) -> Future[torch.Tensor]:
        webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
        if not (content.startswith(_KINDS) or webp):
            raise Refusal(422, f"{name} is no JPEG, PNG, WebP, GIF, BMP or TIFF file.")
        value = {"bytes": content, "path": name}
        try:
            with OpenImage(value) as image:
                self._check_size(name, image.height, image.width)
            waiting = _Waiting(self._stage({"image": [value], "label": [-1]})["pixel_values"])
        except UserError as error:
            reason = error.reason if isinstance(error, UnreadableImage) else str(error).rstrip(".")
            raise Refusal(422, f"{name} cannot be read as an image: {reason}.") from None
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
            shapes = {waiting.pixel_values.shape: None for waiting in own}
            for shape in shapes:
                self._answer([waiting for waiting in own if waiting.pixel_values.shape == shape])

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            inputs = torch.cat([waiting.pixel_values for waiting in batch]).to(self.classifier.device)
            prepared = self._device_stage({"pixel_values": inputs})["pixel_values"]
            rows = self.classifier.probabilities(prepared)
        except Exception as error:  # one batch is lost, and not the server
            logger.error(f"hf-finetune: a batch of {len(batch)} images failed: {error}")
            for waiting in batch:
                waiting.answer.set_exception(
                    Refusal(503, "The model failed on this image; the log of the server says why.")
                )
            return
        self.on_batch(len(batch))
        for waiting, row in zip(batch, rows, strict=True):
            waiting.answer.set_result(row)

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
        self._decoders.shutdown(wait=True)
        self._queue.put(None)
        self._model.join()
