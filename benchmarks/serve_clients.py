"""Many clients of a server at once, in a process of their own.

python -m benchmarks.serve_clients PORT CLIENTS REQUESTS FOLDER

The clients send the files of FOLDER in turn, each over one connection. Prints seconds, and the answer to each request.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

_HEAD = (
    "POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    "Content-Length: {}\r\n\r\n"
)
_PART = b'--b\r\nContent-Disposition: form-data; name="images"; filename="image.jpg"\r\n\r\n'


def request_of(content: bytes) -> bytes:
    body = _PART + content + b"\r\n--b--\r\n"
    return _HEAD.format(len(body)).encode() + body


async def client(port: int, numbers: Any, requests: list[bytes], answers: dict[int, Any]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in numbers:
        writer.write(requests[number % len(requests)])
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(next(line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length")))
        answers[number] = json.loads(await reader.readexactly(length))
    writer.close()


async def main(port: int, clients: int, count: int, folder: Path) -> None:
    requests = [
        request_of(path.read_bytes()) for path in sorted(path for path in folder.rglob("*.*") if path.is_file())
    ]
    numbers, answers = itertools.chain(range(count)), dict[int, Any]()
    began = time.perf_counter()
    await asyncio.gather(*(client(port, numbers, requests, answers) for _ in range(clients)))
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "answers": [answers.get(number) for number in range(count)]}))


if __name__ == "__main__":
    port, clients, count = map(int, sys.argv[1:4])
    asyncio.run(main(port, clients, count, Path(sys.argv[4])))
