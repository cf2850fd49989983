"""A small HTTP/1.1 client: bounded answers, deadlines, one connection kept per server. The larger ones cost 14 MiB."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import h11

_READ_BYTES: Final = 64 * 1024
_CONNECT_SECONDS: Final = 5.0


class HttpFailed(Exception):
    """No answer, or one that is broken or too large; the message says what happened."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a server is."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        """As it stands in a ``Host`` header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Response:
    """An answer with a complete body."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""


class _Connection:
    """One connection; the answer to a request is read before the next is sent."""

    def __init__(self, origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._origin = origin
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, origin: Origin) -> "_Connection":
        async with asyncio.timeout(_CONNECT_SECONDS):
            return cls(origin, *await asyncio.open_connection(origin.host, origin.port, ssl=origin.tls))

    async def ask(self, request: _Request) -> h11.Response:
        """Send a request; the head of its answer."""
        headers = [("Host", str(self._origin)), ("Content-Length", str(len(request.body))), *request.headers.items()]
        head = h11.Request(method=request.method, target=request.target, headers=headers)
        parts = (head, h11.Data(data=request.body), h11.EndOfMessage())
        self._writer.write(b"".join(self._http.send(part) or b"" for part in parts))
        await self._writer.drain()
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                return event

    async def body(self) -> AsyncIterator[bytes]:
        """The answer's body as it comes."""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    def reusable(self) -> bool:
        """Whether another request may be sent; to be asked when the answer is complete."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return not self._writer.is_closing() and not self._reader.at_eof()
        return False

    def close(self) -> None:
        """Without goodbyes: nothing is lost by it."""
        self._writer.transport.abort()

    async def _next(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(_READ_BYTES)
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise HttpFailed("the server closed the connection without an answer")
            self._http.receive_data(data)
        if not isinstance(event, h11.Event):
            raise HttpFailed("the server answers what was not asked")
        return event


@dataclass(slots=True)
class HttpClient:
    """Requests to one server, one at a time on the kept connection; streams have connections of their own."""

    origin: Origin
    _idle: _Connection | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        timeout: float,
        limit: int,
    ) -> Response:
        """One answer of at most ``limit`` bytes within ``timeout`` seconds. Raises HttpFailed.

        It is sent again when a kept connection turns out dead: only for requests that may happen twice.
        """
        request = _Request(method, target, headers, body)
        async with self._turn, _errors(self.origin, timeout):
            kept, self._idle = self._idle, None
            if kept is not None:
                with contextlib.suppress(HttpFailed, OSError, h11.RemoteProtocolError):
                    return await self._exchange(kept, request, limit)
            return await self._exchange(await _Connection.open(self.origin), request, limit)

    async def lines(
        self, target: str, *, headers: Mapping[str, str], stall: float, limit: int
    ) -> AsyncGenerator[Response | bytes, None]:
        """First the head of the answer (or all of it when it is no 200), then each line. Raises HttpFailed.

        ``stall`` are the seconds without a byte that break it off, ``limit`` the bytes of a line.
        """
        async with _errors(self.origin, None):
            connection = await _Connection.open(self.origin)
            try:
                async with asyncio.timeout(stall):
                    head = await connection.ask(_Request("GET", target, headers))
                    refusal = None if head.status_code == 200 else await _complete(head, connection.body(), limit)
                yield refusal or _response(head, b"")
                if refusal is None:
                    async for line in _lines(connection.body(), stall=stall, limit=limit):
                        yield line
            finally:
                connection.close()

    def close(self) -> None:
        """Close the kept connection."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    async def _exchange(self, connection: _Connection, request: _Request, limit: int) -> Response:
        kept = False
        try:
            head = await connection.ask(request)
            answer = await _complete(head, connection.body(), limit)
            kept = connection.reusable()
            if kept:
                self._idle = connection
            return answer
        finally:
            if not kept:
                connection.close()


@contextlib.asynccontextmanager
async def _errors(origin: Origin, timeout: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout):
            yield
    except (OSError, TimeoutError, h11.ProtocolError) as error:
        raise HttpFailed(f"{origin}: {str(error) or type(error).__name__}") from error


async def _lines(body: AsyncIterator[bytes], *, stall: float, limit: int) -> AsyncIterator[bytes]:
    rest = b""
    while True:
        async with asyncio.timeout(stall):
            chunk = await anext(body, None)
        if chunk is None:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > limit:
            raise HttpFailed(f"a line has more than {limit} bytes")


async def _complete(head: h11.Response, body: AsyncIterator[bytes], limit: int) -> Response:
    content = bytearray()
    async for chunk in body:
        content += chunk
        if len(content) > limit:
            raise HttpFailed(f"the answer has more than {limit} bytes")
    return _response(head, bytes(content))


def _response(head: h11.Response, body: bytes) -> Response:
    headers = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in head.headers}
    return Response(head.status_code, headers, body)
