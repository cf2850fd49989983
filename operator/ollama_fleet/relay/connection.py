"""One client connection: bytes to exchanges and back, with bounds on all that a client can send."""

import asyncio
import contextlib
import logging
import socket
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

import httptools

from ollama_fleet.relay.exchange import ClientGone, Exchange, Handler
from ollama_fleet.relay.messages import MAX_HEAD_BYTES, MAX_HEADERS, BadMessage, Head, check_framing, head_bytes, phrase

logger = logging.getLogger(__name__)

_NOT_HTTP: Final = "this is not HTTP/1.1"
_MAX_PIPELINED: Final = 16
_MAX_CHUNK_OVERHEAD: Final = 4096
_BYTES_PER_CHUNK: Final = 32
_LINGER_BYTES: Final = 2**20
_LINGER_SECONDS: Final = 1.0


@dataclass(slots=True)
class Listener:
    """What the connections of one server share."""

    handler: Handler
    idle_seconds: float
    stall_seconds: float
    max_connections: int
    closing: bool = False
    connections: "set[Connection]" = field(default_factory=set)


class Connection(asyncio.Protocol):
    """One client connection. Pipelined requests wait in the socket: reading stops while one is answered."""

    def __init__(self, server: Listener) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._receiving: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._raw = 0
        self._bytes = 0
        self._chunks = 0
        self._head_size = 0
        self._lingering = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._pending = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
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
        if self._lingering:
            self._raw += len(data)
            if self._raw > _LINGER_BYTES:
                self.abort()
            return
        if self._exchange is not None and self._receiving is None:
            # The next request came early: it waits until this one is answered.
            self._pending += data
            if len(self._pending) > MAX_HEAD_BYTES:
                self.pause_reading()
            return
        self._raw += len(data)
        try:
            self._parser.feed_data(data)
            self._check_overhead()
        except httptools.HttpParserUpgrade:
            return  # CONNECT: no route serves it
        except httptools.HttpParserError as error:
            # What a callback raises arrives wrapped.
            cause = error.__context__
            wrong = cause if isinstance(cause, BadMessage) else BadMessage(HTTPStatus.BAD_REQUEST, _NOT_HTTP)
            self._refuse(wrong)
        except BadMessage as error:
            self._refuse(error)

    def _check_overhead(self) -> None:
        """Bound what the parser swallows without a callback: endless headers, chunk extensions and trailers."""
        if self._receiving is None:
            if self._raw > MAX_HEAD_BYTES:
                raise BadMessage(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large")
            return
        allowed = MAX_HEAD_BYTES + _MAX_CHUNK_OVERHEAD + self._chunks * _BYTES_PER_CHUNK
        if self._raw - self._bytes > allowed:
            raise BadMessage(HTTPStatus.BAD_REQUEST, "chunk extensions and trailers are too large")

    def pause_writing(self) -> None:
        self._writable.clear()
        self._stall = self._loop.call_later(self._server.stall_seconds, self.abort)

    def resume_writing(self) -> None:
        self._writable.set()
        self._unstall()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.closing = True
        self._server.connections.discard(self)
        self._writable.set()
        self._unstall()
        self._disarm()
        if self._exchange is not None and not self._exchange.finished:
            self._exchange.lost()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._url, self._headers, self._head_size, self._chunks = b"", [], 0, 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receiving is not None:
            return  # trailers are dropped
        self._count(len(name) + len(value))
        if len(self._headers) >= MAX_HEADERS:
            raise BadMessage(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {MAX_HEADERS} headers")
        self._headers.append((name.lower(), value))

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD_BYTES:
            raise BadMessage(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large")

    def on_headers_complete(self) -> None:
        path, _, query = self._url.partition(b"?")
        head = Head(
            method=self._parser.get_method().decode("ascii"),
            path=path.decode("latin-1"),
            query=query.decode("latin-1"),
            headers=tuple(self._headers),
        )
        check_framing(head)
        if len(self._queue) >= _MAX_PIPELINED:
            raise BadMessage(HTTPStatus.BAD_REQUEST, "too many requests at once")
        chunks = self._parser.get_http_version() != "1.0"
        stays = chunks and self._parser.should_keep_alive()
        self._receiving = Exchange(head, self, keep_alive=stays, chunks=chunks)
        if self._exchange is None:
            self._begin(self._receiving)
        else:
            # One read may bring several requests; their answers go out in order.
            self._queue.append(self._receiving)

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        self._bytes += len(body)
        if self._receiving is not None:
            self._receiving.feed(body)

    def on_message_complete(self) -> None:
        self._disarm()
        # The parser took a whole message: what else this read brought counts for the next one.
        self._raw = self._bytes = 0
        if self._receiving is not None:
            self._receiving.all_arrived()
        self._receiving = None

    def _begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._task = self._loop.create_task(self._serve(exchange))

    def _unstall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

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

    def close(self, *, linger: bool = False) -> None:
        """Close when all is written. With ``linger`` what still arrives is read for a moment: closing on unread bytes
        resets the connection, and the client might never see its answer.
        """
        if self._transport is None or self.closing:
            return
        self.closing = True
        if linger and self._transport.can_write_eof():
            self._lingering, self._raw = True, 0
            self._transport.write_eof()
            self._disarm()
            if not self._transport.is_reading():
                self._transport.resume_reading()
            self._timer = self._loop.call_later(_LINGER_SECONDS, self.abort)
        else:
            self._transport.close()

    def close_if_idle(self) -> None:
        if self._exchange is None:
            self.close()
        elif not self._exchange.started:
            self._exchange.last()

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
        if self._queue:
            self._begin(self._queue.popleft())
            if self._exchange is self._receiving:
                self._arm()
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
            self.write(head_bytes(f"HTTP/1.1 {error.status} {phrase(error.status)}".encode(), headers) + body)
            self.close(linger=True)
        else:
            self.abort()

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
