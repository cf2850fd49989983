"""A very small HTTP server for probes and metrics: GET and HEAD, one request per connection.

Everything is bounded: the head, the time to send it and to take the answer, and the number of connections.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

logger = logging.getLogger(__name__)

MAX_HEAD: Final = 8192
"""Bytes."""
MAX_CONNECTIONS: Final = 64
TIMEOUT: Final = 5.0
"""Seconds for the head to arrive, and again for the answer to leave."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with a body that is complete."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


Handler = Callable[[], Awaitable[Answer]]


class HttpServer:
    """Serves fixed paths; whatever stands after ``?`` is ignored."""

    def __init__(self, routes: dict[str, Handler], *, timeout: float = TIMEOUT) -> None:
        """``routes`` maps a path to what answers a GET of it."""
        self._routes = routes
        self._timeout = timeout
        self._connections: set[asyncio.Task[object] | None] = set()
        self._server: asyncio.Server | None = None

    async def start(self, *, host: str, port: int) -> int:
        """Listen; returns the port, which matters for port 0."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and let what is under way end, which its time limits."""
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*filter(None, self._connections))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections.add(task)
        try:
            if len(self._connections) <= MAX_CONNECTIONS:
                await self._exchange(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # The client is slow, gone, or no HTTP client: closing would wait until it has read what is left.
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._connections.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(self._timeout):
            head = await reader.readuntil(b"\r\n\r\n")
        method, path = _request_line(head)
        answer = await self._answer(method, path)
        # Drained is what has left, not what fits in the buffer.
        writer.transport.set_write_buffer_limits(0)
        writer.write(_head(answer))
        if method != "HEAD":
            writer.write(answer.body)
        async with asyncio.timeout(self._timeout):
            await writer.drain()

    async def _answer(self, method: str, path: str) -> Answer:
        if method not in {"GET", "HEAD"}:
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n")
        handler = self._routes.get(path)
        if handler is None:
            return Answer(HTTPStatus.NOT_FOUND, b"no such path\n")
        try:
            return await handler()
        except Exception:
            logger.exception("request failed", extra={"path": path})
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error\n")


def _request_line(head: bytes) -> tuple[str, str]:
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3:
        return "", ""
    return parts[0].decode("latin-1"), parts[1].partition(b"?")[0].decode("latin-1")


def _head(answer: Answer) -> bytes:
    status = HTTPStatus(answer.status)
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(lines).encode("latin-1")
