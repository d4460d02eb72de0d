"""A small ASGI application: each request calls `answer` and `price` once, and `steps` for its two pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any


def price(path: str) -> int:
    """Say what a path costs."""
    return len(path)


def steps(count: int) -> Iterator[bytes]:
    """Yield the pieces of an answer."""
    for index in range(count):
        yield b"%d\n" % index


async def answer(path: str) -> bytes:
    """Make the answer, waiting a little as for a database."""
    await asyncio.sleep(0.002)
    return b"%d\n" % price(path) + b"".join(steps(2))


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve one connection."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = await answer(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
