"""`hf-finetune serve`: a model behind a web server until it is told to stop."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from hf_finetune.errors import UserError
from hf_finetune.jobs.classifier import open_classifier
from hf_finetune.logs import get_logger
from hf_finetune.serving.limits import Limits

logger = get_logger(__name__)

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_SECONDS_TO_STOP = 30


def serve(model: str, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None) -> None:
    """Serve a model until SIGTERM or Ctrl-C, and answer then what has been asked.

    Args:
        model: A folder, a Hub id, an embedded name or an ONNX file.
        host: The address to listen at; one of this machine alone, unless told otherwise.
        port: The port; 0 for a free one.
        limits: What is refused; None for the usual limits.

    Raises:
        UserError: For a model or an address that cannot be had, and where the packages of the extra are missing.
    """
    for name in _PACKAGES:
        if find_spec(name) is None:
            raise UserError(
                f'To serve, the package {name} is needed; install it with `pip install "hf-finetune[serve]"`.'
            )
    import uvicorn

    from hf_finetune.serving.app import create_app

    local = _is_local(host)
    with _listening(host, port) as listener:
        classifier = open_classifier(model)
        if (channels := classifier.stage.decoding.channels) is not None:
            raise UserError(
                f"{model} takes images of {channels} channels as they are stored, which serve does not read; use"
                " hf-finetune predict."
            )
        app = create_app(
            classifier, limits or Limits(), dict.fromkeys(("localhost", "127.0.0.1", "::1", host)) if local else None
        )
        if not local:
            logger.warning(
                f"Note: at {host} every machine that reaches this one can use the model; there is no password and no"
                " encryption. Put a proxy with both before it."
            )
        shown = f"[{host}]" if ":" in host else host
        logger.info(f"Serving {model} at http://{shown}:{listener.getsockname()[1]}; Ctrl-C stops.")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SECONDS_TO_STOP,
            timeout_keep_alive=5,
        )
        server = uvicorn.Server(config)
        with _stopped_by_signals(server):
            server.run(sockets=[listener])
    logger.info("Stopped.")


@contextmanager
def _stopped_by_signals(server: Any) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C stop a server of uvicorn, which would raise them again when it has stopped."""
    server.capture_signals = nullcontext
    stops = (signal.SIGINT, signal.SIGTERM)
    earlier = {number: signal.signal(number, server.handle_exit) for number in stops}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket at an address, before the model is opened, which takes seconds."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}; use one from 0 to 65535.")
    listener = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        if listener is not None:
            listener.close()
        advice = "use another --port, or 0 for a free one" if listener is not None else "check --host"
        raise UserError(f"Nothing can listen at {host}:{port} ({error.strerror}); {advice}.") from error
    return listener
