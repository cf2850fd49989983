"""The server side of a relay: asyncio protocol, httptools as the parser, answers streamed with back-pressure."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Final, cast

import httptools

from ollama_fleet.relay.messages import MAX_HEAD_BYTES, MAX_HEADERS, BadMessage, Head, check_framing, head_bytes

logger = logging.getLogger(__name__)

IDLE_SECONDS: Final = 75.0
"""How long a connection may stay open between requests, or a request take to arrive."""
_BODY_HIGH_WATER: Final = 256 * 1024


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


class Exchange:
    """One request and its answer."""

    def __init__(self, head: Head, connection: "_Connection", *, keep_alive: bool) -> None:
        """Made by the server."""
        self.head = head
        self.started = False
        """Whether the head of the answer is on its way: then its status can no longer change."""
        self.status = 0
        self.finished = False
        self._connection = connection
        self._keep_alive = keep_alive
        self._chunked = False
        self._body = bytearray()
        self._complete = False
        self._arrived = asyncio.Event()
        self.gone = asyncio.Event()
        """Set when the client is gone."""

    async def read_body(self, limit: int) -> bytes:
        """The whole body. Raises BadMessage (413) beyond ``limit`` bytes, and ClientGone."""
        declared = self.head.get(b"content-length")
        if declared is not None and int(declared) > limit:
            raise BadMessage(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have at most {limit} bytes")
        if (self.head.get(b"expect") or b"").lower() == b"100-continue" and not self._complete:
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._complete:
            if len(self._body) > limit:
                raise BadMessage(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have at most {limit} bytes")
            if self.gone.is_set():
                raise ClientGone
            self._arrived.clear()
            self._connection.resume_reading()
            await self._arrived.wait()
        if len(self._body) > limit:
            raise BadMessage(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have at most {limit} bytes")
        return bytes(self._body)

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
        """Begin an answer whose body follows by ``write``; of unknown length it is chunked."""
        self._chunked = length is None and self.head.method != "HEAD" and status not in {204, 304}
        framing = (
            ((b"transfer-encoding", b"chunked"),)
            if self._chunked
            else ((b"content-length", str(length or 0).encode()),)
        )
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
        self._keep_alive = self._keep_alive and self._complete and not self._connection.closing
        connection = () if self._keep_alive else ((b"connection", b"close"),)
        start = f"HTTP/1.1 {status} {_phrase(status)}".encode()
        self._connection.write(head_bytes(start, (*headers, *connection)))

    async def _finish(self) -> None:
        self.finished = True
        await self._connection.drain()
        if not self._keep_alive:
            self._connection.close()

    # What the connection tells.

    def feed(self, data: bytes) -> None:
        """Bytes of the body."""
        self._body += data
        if len(self._body) > _BODY_HIGH_WATER:
            self._connection.pause_reading()
        self._arrived.set()

    def complete(self) -> None:
        """The body is complete."""
        self._complete = True
        self._arrived.set()

    def lost(self) -> None:
        """The client is gone."""
        self.gone.set()
        self._arrived.set()


Handler = Callable[[Exchange], Awaitable[None]]


class RelayServer:
    """Listens and hands every request to one handler, one at a time per connection."""

    def __init__(self, handler: Handler, *, idle_seconds: float = IDLE_SECONDS, max_connections: int = 4096) -> None:
        """``handler`` answers an exchange; what it raises becomes an answer or breaks the connection."""
        self.handler = handler
        self.idle_seconds = idle_seconds
        self.max_connections = max_connections
        self.connections: set[_Connection] = set()
        self.closing = False
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host or None, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, *, grace: float) -> None:
        """Take no more connections, let exchanges under way end for ``grace`` seconds, then break them."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        deadline = asyncio.get_running_loop().time() + grace
        while self.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    """One client connection. Pipelined requests wait in the socket: reading stops while one is answered."""

    def __init__(self, server: RelayServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._head_size = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._pending = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None
        self.closing = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._server.connections) >= self._server.max_connections or self._server.closing:
            self._transport.abort()
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.connections.add(self)
        self._arm()

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None and self._exchange._complete:  # noqa: SLF001 - both are one mechanism
            # The next request came early: it waits until this one is answered.
            self._pending += data
            if len(self._pending) > MAX_HEAD_BYTES:
                self.pause_reading()
            return
        if self._exchange is None:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD_BYTES and not self._headers_done(data):
                self._refuse(BadMessage(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large"))
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # answered by the framing check
        except httptools.HttpParserError:
            self._refuse(BadMessage(HTTPStatus.BAD_REQUEST, "this is not HTTP/1.1"))
        except BadMessage as error:
            self._refuse(error)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.closing = True
        self._server.connections.discard(self)
        self._writable.set()
        self._disarm()
        if self._exchange is not None and not self._exchange.finished:
            self._exchange.lost()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None:
            return  # trailers are dropped
        if len(self._headers) >= MAX_HEADERS:
            raise BadMessage(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {MAX_HEADERS} headers")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        path, _, query = self._url.partition(b"?")
        head = Head(
            method=self._parser.get_method().decode("ascii"),
            path=path.decode("latin-1"),
            query=query.decode("latin-1"),
            headers=tuple(self._headers),
        )
        check_framing(head)
        self._exchange = Exchange(head, self, keep_alive=self._parser.should_keep_alive())
        self._task = self._loop.create_task(self._serve(self._exchange))

    def on_body(self, body: bytes) -> None:
        if self._exchange is not None:
            self._exchange.feed(body)

    def on_message_complete(self) -> None:
        self._disarm()
        self._head_size = 0
        if self._exchange is not None:
            self._exchange.complete()

    # For the exchange

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.closing:
            self._transport.write(data)

    async def drain(self) -> None:
        await self._writable.wait()

    def pause_reading(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self.closing and not self._transport.is_reading():
            self._transport.resume_reading()

    def close(self) -> None:
        self.closing = True
        if self._transport is not None:
            self._transport.close()

    def close_if_idle(self) -> None:
        if self._exchange is None:
            self.close()
        else:
            self.closing_after()

    def closing_after(self) -> None:
        """Let the exchange under way be the last one."""
        if self._exchange is not None and not self._exchange.started:
            self._exchange._keep_alive = False  # noqa: SLF001 - both are one mechanism

    def abort(self) -> None:
        self.closing = True
        if self._transport is not None:
            self._transport.abort()

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._server.handler(exchange)
        except ClientGone:
            pass
        except BadMessage as error:
            await self._answer_error(exchange, error)
        except Exception:
            logger.exception("request failed", extra={"path": exchange.head.path})
            await self._answer_error(exchange, BadMessage(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error"))
        if not exchange.finished:
            exchange.abort()
        self._next()

    async def _answer_error(self, exchange: Exchange, error: BadMessage) -> None:
        if exchange.started:
            exchange.abort()
            return
        with contextlib.suppress(ClientGone):
            await exchange.answer(error.status, b'{"error":"%b"}' % str(error).encode())

    def _next(self) -> None:
        """The answer is out: go on with what came meanwhile, or wait for the next request."""
        self._exchange, self._task = None, None
        if self.closing:
            return
        if self._server.closing:
            self.close()
            return
        self._arm()
        self.resume_reading()
        pending, self._pending = self._pending, b""
        if pending:
            self.data_received(pending)

    def _refuse(self, error: BadMessage) -> None:
        if self._exchange is None:
            body = b'{"error":"%b"}' % str(error).encode()
            headers = (
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            )
            self.write(head_bytes(f"HTTP/1.1 {error.status} {_phrase(error.status)}".encode(), headers) + body)
            self.close()
        else:
            self.abort()

    def _headers_done(self, data: bytes) -> bool:
        return b"\r\n\r\n" in data

    def _arm(self) -> None:
        self._disarm()
        self._timer = self._loop.call_later(self._server.idle_seconds, self._expired)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        """Nothing came for too long: a slow head, a slow body, or an idle connection."""
        self.abort()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
