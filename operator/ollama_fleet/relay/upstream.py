"""The client side of a relay: one request per connection to one upstream on the same host.

On loopback a connection costs less than the bookkeeping of a pool, and its end is the end of the answer: what the
upstream still does after a client went away can be waited for.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Final

import httptools

from ollama_fleet.relay.messages import MAX_HEAD_BYTES, MAX_HEADERS, head_bytes

_CHUNK: Final = 64 * 1024
CONNECT_SECONDS: Final = 5.0


class UpstreamFailed(Exception):
    """The upstream cannot be reached, broke off, or does not speak HTTP."""


class Answer:
    """An answer that is on its way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Made by ``request``."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        """The whole message arrived; an end without it is a broken stream."""
        self._reader = reader
        self._writer = writer
        self._parser = httptools.HttpResponseParser(self)
        self._head_done = False
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def length(self) -> int | None:
        """The declared length of the body."""
        found = next((value for name, value in self.headers if name == b"content-length"), None)
        return int(found) if found is not None and found.isdigit() else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises UpstreamFailed when it breaks off."""
        while True:
            chunks, self._chunks = self._chunks, []
            for chunk in chunks:
                yield chunk
            if self.complete:
                return
            await self._feed()

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises UpstreamFailed beyond ``limit`` bytes."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise UpstreamFailed(f"the answer has more than {limit} bytes")
        return bytes(body)

    async def settle(self, seconds: float | None) -> bool:
        """Say that no more is wanted and wait until the upstream is done; False if it did not end in time.

        Without ``seconds`` it waits as long as the connection lives.

        Go's server notices the half-closed connection, cancels the handler and closes after it has returned.
        """
        with contextlib.suppress(OSError, RuntimeError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
        try:
            async with asyncio.timeout(seconds):
                while await self._reader.read(_CHUNK):
                    pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    async def sent(self) -> None:
        """Until the upstream has the request, but for a little that waits in buffers."""
        # One that answers early need not read it all: its answer tells.
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def read_head(self) -> None:
        """Until the head is there."""
        while not self._head_done:
            await self._feed()

    async def _feed(self) -> None:
        try:
            data = await self._reader.read(_CHUNK)
        except OSError as error:
            raise UpstreamFailed(f"the connection broke: {error}") from error
        if not data:
            raise UpstreamFailed("the connection was closed in the middle of an answer")
        self._size += len(data)
        if not self._head_done and self._size > MAX_HEAD_BYTES + _CHUNK:
            raise UpstreamFailed("the head of the answer is too large")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise UpstreamFailed(f"the answer is not HTTP: {error}") from error

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are dropped."""
        if not self._head_done and len(self.headers) < MAX_HEADERS:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there."""
        self.status = self._parser.get_status_code()
        self._head_done = True

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """All of it."""
        self.complete = True


class Upstream:
    """One HTTP server, by address."""

    def __init__(self, host: str, port: int) -> None:
        """Nothing is connected yet."""
        self.host = host
        self.port = port

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, target: str, *, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes | None = None
    ) -> AsyncIterator[Answer]:
        """Send a request and give its answer, whose head is to be awaited. Raises UpstreamFailed."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(self.host, self.port, limit=_CHUNK)
        except (OSError, TimeoutError) as error:
            raise UpstreamFailed(f"cannot connect: {error}") from error
        try:
            writer.write(self._head(method, target, headers, body))
            if body:
                writer.write(body)
                # Answers take minutes: a large body is not kept for them.
                del body
            answer = Answer(reader, writer)
            yield answer
        except OSError as error:
            raise UpstreamFailed(f"the connection broke: {error}") from error
        finally:
            writer.close()

    def _head(self, method: str, target: str, headers: Iterable[tuple[bytes, bytes]], body: bytes | None) -> bytes:
        own = [(b"host", f"{self.host}:{self.port}".encode()), (b"connection", b"close")]
        if body is not None:
            own.append((b"content-length", str(len(body)).encode()))
        return head_bytes(f"{method} {target} HTTP/1.1".encode("latin-1"), (*own, *headers))
