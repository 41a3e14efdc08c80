"""What a server takes from those who use it, and the errors of those who ask for more."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hf_finetune.errors import UserError


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        batch_size: Images of a forward pass at most.
        max_wait_ms: Milliseconds that the first image of a pass waits for others.
        max_megabytes: The size of a request.
        max_pixels: The pixels of an image, which is decoded to 3 bytes for each.
        max_images: Images of a request.
        max_queue: Images that wait for the model, and requests at a time.
        timeout: Seconds for a request to arrive, and again to be answered.

    Raises:
        UserError: For a limit that is not positive.
    """

    batch_size: int = 32
    max_wait_ms: int = 5
    max_megabytes: int = 32
    max_pixels: int = 50_000_000
    max_images: int = 64
    max_queue: int = 512
    timeout: int = 30

    def __post_init__(self) -> None:
        for item in fields(self):
            least = 0 if item.name == "max_wait_ms" else 1
            if getattr(self, item.name) < least:
                raise UserError(f"--{item.name} is {getattr(self, item.name)}; use {least} or more.")


class Refusal(Exception):
    """A request that is not answered with classes.

    Attributes:
        status: The HTTP status.
        message: One sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
