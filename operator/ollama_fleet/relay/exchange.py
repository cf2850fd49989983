"""One request and its answer, as a handler sees them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Final, Protocol

from ollama_fleet.relay.messages import BadMessage, Head, head_bytes, phrase

BODY_HIGH_WATER: Final = 256 * 1024
"""Bytes of a body that may lie unread before no more is taken from the client."""


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


class Wire(Protocol):
    """What an exchange needs of its connection."""

    closing: bool

    def write(self, data: bytes) -> None:
        """Send bytes, or hold them while the client is slow."""

    async def drain(self) -> None:
        """Wait while the client is slow."""

    def pause_reading(self) -> None:
        """Take no more bytes from the client."""

    def resume_reading(self) -> None:
        """Take bytes again."""

    def close(self, *, linger: bool = False) -> None:
        """Close when all is written."""

    def abort(self) -> None:
        """Close at once."""


class Exchange:
    """One request and its answer."""

    def __init__(self, head: Head, connection: Wire, *, keep_alive: bool, chunks: bool) -> None:
        """Made by the server. ``chunks``: whether the client understands them."""
        self.head = head
        self.started = False
        """Whether the head of the answer is on its way: then its status can no longer change."""
        self.status = 0
        self.finished = False
        self._connection = connection
        self._keep_alive = keep_alive
        self._chunks = chunks
        self._chunked = False
        self._body = bytearray()
        self.complete = False
        """Whether the whole request arrived."""
        self._arrived = asyncio.Event()
        self.gone = asyncio.Event()
        """Set when the client is gone."""

    async def read_body(self, limit: int, *, arrived: Callable[[int], None] = lambda _: None) -> bytes:
        """The whole body. Raises BadMessage (413) beyond ``limit`` bytes, and ClientGone.

        ``arrived`` hears how many bytes there are; what it raises ends the reading.
        """
        declared = self.head.get(b"content-length")
        if declared is not None and int(declared) > limit:
            raise BadMessage(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have at most {limit} bytes")
        if (self.head.get(b"expect") or b"").lower() == b"100-continue" and not self.complete:
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            while not self._has_all(limit, arrived):
                self._arrived.clear()
                self._connection.resume_reading()
                await self._arrived.wait()
        finally:
            body, self._body = self._body, bytearray()
        # Also now: a connection that is not read does not tell that its client left.
        self._connection.resume_reading()
        return bytes(body)

    def _has_all(self, limit: int, arrived: Callable[[int], None]) -> bool:
        if len(self._body) > limit:
            raise BadMessage(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have at most {limit} bytes")
        arrived(len(self._body))
        if self.gone.is_set() and not self.complete:
            raise ClientGone
        return self.complete

    async def answer(
        self,
        status: int,
        body: bytes,
        *,
        content_type: bytes = b"application/json",
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """A complete answer."""
        own = ((b"content-type", content_type), (b"content-length", str(len(body)).encode()))
        self._start(status, (*own, *headers))
        if self.head.method != "HEAD":
            self._connection.write(body)
        await self._finish()

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, length: int | None) -> None:
        """Begin an answer whose body follows by ``write``; of unknown length it is chunked, or ends the connection."""
        framing: tuple[tuple[bytes, bytes], ...] = ((b"content-length", str(length or 0).encode()),)
        if length is None and self.head.method != "HEAD" and status not in {204, 304}:
            self._chunked = self._chunks
            framing = ((b"transfer-encoding", b"chunked"),) if self._chunks else ()
        self._start(status, (*headers, *framing))

    async def write(self, chunk: bytes) -> None:
        """A part of the body; waits while the client reads slower. Raises ClientGone."""
        if self.gone.is_set():
            raise ClientGone
        if self.head.method == "HEAD" or not chunk:
            return
        self._connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)
        await self._connection.drain()

    async def end(self) -> None:
        """The answer is complete."""
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")
        await self._finish()

    def abort(self) -> None:
        """Break the connection: the only honest end of an answer that cannot be completed."""
        self.finished = True
        self._connection.abort()

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if self.gone.is_set():
            raise ClientGone
        self.started, self.status = True, status
        # A body that was not read would be taken for the next request.
        self._keep_alive = self._keep_alive and self.complete and not self._connection.closing
        connection = () if self._keep_alive else ((b"connection", b"close"),)
        start = f"HTTP/1.1 {status} {phrase(status)}".encode()
        self._connection.write(head_bytes(start, (*headers, *connection)))

    async def _finish(self) -> None:
        self.finished = True
        await self._connection.drain()
        if not self._keep_alive:
            self._connection.close(linger=not self.complete)

    # What the connection tells.

    def feed(self, data: bytes) -> None:
        """Bytes of the body."""
        self._body += data
        if len(self._body) > BODY_HIGH_WATER:
            self._connection.pause_reading()
        self._arrived.set()

    def all_arrived(self) -> None:
        """The body is complete."""
        self.complete = True
        self._arrived.set()

    def last(self) -> None:
        """Close the connection after this answer, if its head is not out yet."""
        self._keep_alive = False

    def lost(self) -> None:
        """The client is gone."""
        self.gone.set()
        self._arrived.set()


Handler = Callable[[Exchange], Awaitable[None]]
