"""``GET /progress`` and ``GET /healthz``: two answers do not need a framework.

Bounded: one request per connection, a head of 4 KiB at most that must come within 5 s, 16 connections at a time.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from ollama_fleet.api.progress import PullProgress

_HEAD_LIMIT: Final = 4096
_HEAD_SECONDS: Final = 5.0
_CONNECTIONS: Final = 16


@asynccontextmanager
async def serve_progress(snapshot: Callable[[], PullProgress], *, port: int) -> AsyncIterator[int]:
    """Serve on all interfaces until the block is left; yields the port (0 asks for a free one)."""
    server = _Server(snapshot)
    listener = await asyncio.start_server(server.handle, sock=_socket(port), limit=_HEAD_LIMIT)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


def _socket(port: int) -> socket.socket:
    """One socket for both families: two would get two ports where a free one is asked for."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


class _Server:
    def __init__(self, snapshot: Callable[[], PullProgress]) -> None:
        self._snapshot = snapshot
        self._connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        self._connections += 1
        try:
            if self._connections <= _CONNECTIONS:
                writer.write(self._answer(await _read_request(reader)))
                async with asyncio.timeout(_HEAD_SECONDS):
                    await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a broken client gets no answer
        finally:
            self._connections -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _answer(self, request: tuple[str, str]) -> bytes:
        match request:
            case ("GET", "/progress"):
                return _response("200 OK", json.dumps(self._snapshot().to_wire()))
            case ("GET", "/healthz"):
                return _response("200 OK", '{"ok":true}')
            case ("GET", _):
                return _response("404 Not Found", '{"error":"not found"}')
            case _:
                return _response("405 Method Not Allowed", '{"error":"GET only"}')


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str]:
    async with asyncio.timeout(_HEAD_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
    method, target, _version = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    return method, target.partition("?")[0]


def _response(status: str, body: str) -> bytes:
    content = body.encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + content
