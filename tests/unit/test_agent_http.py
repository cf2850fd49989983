"""The agent's HTTP client against servers that behave and servers that do not."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ollama_fleet.agent.http import HttpClient, HttpFailed, Origin, Response

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Talk], Awaitable[HttpClient]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[asyncio.Server] = []

    async def start(talk: Talk) -> HttpClient:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await talk(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        servers.append(await asyncio.start_server(handle, "127.0.0.1", 0))
        return HttpClient(Origin("127.0.0.1", servers[-1].sockets[0].getsockname()[1]))

    yield start
    for server in servers:
        server.close()


async def get(client: HttpClient, *, limit: int = 1000, timeout: float = 5.0) -> Response:
    return await client.request("GET", "/x?y=1", headers={"X-A": "b"}, timeout=timeout, limit=limit)


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def test_requests_share_a_connection(serve: Serve) -> None:
    heads: list[bytes] = []
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            heads.append(await head(reader))
            writer.write(OK)

    client = await serve(talk)
    for _ in range(3):
        answer = await get(client)
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"ok", "2")
    assert heads[0].startswith(b"GET /x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"X-A: b\r\n" in heads[0]
    assert (connections, len(heads)) == (1, 3)
    client.close()


async def test_a_kept_connection_that_died_is_replaced(serve: Serve) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(OK)

    client = await serve(once)
    for _ in range(3):
        assert (await get(client)).body == b"ok"
        await asyncio.sleep(0.01)
    client.close()


async def test_concurrent_requests_take_turns(serve: Serve) -> None:
    under_way = most = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        while True:
            await head(reader)
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.01)
            under_way -= 1
            writer.write(OK)

    client = await serve(talk)
    await asyncio.gather(*(get(client) for _ in range(5)))
    assert most == 1
    client.close()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "closed"),
        (b"nonsense\r\n\r\n", "127.0.0.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "127.0.0.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"a" * 5000, "more than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000, "127.0.0.1"),
    ],
)
async def test_broken_answers(serve: Serve, raw: bytes, message: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(raw)
        await writer.drain()

    with pytest.raises(HttpFailed, match=message):
        await get(await serve(talk))


async def test_silence_has_an_end(serve: Serve) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        await reader.read()

    with pytest.raises(HttpFailed, match="TimeoutError"):
        await get(await serve(talk), timeout=0.1)


async def test_nobody_listens() -> None:
    with pytest.raises(HttpFailed):
        await get(HttpClient(Origin("127.0.0.1", 1)))


async def collect(client: HttpClient, *, stall: float = 5.0) -> list[bytes | int]:
    parts = client.lines("/w", headers={}, stall=stall, limit=100)
    return [part.status if isinstance(part, Response) else part async for part in parts]


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


async def test_lines_are_put_together(serve: Serve) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b"one\ntw", b"o\n", b"\nthree\nrest"):
            writer.write(chunk(part))
            await writer.drain()
            await asyncio.sleep(0.005)
        writer.write(b"0\r\n\r\n")

    assert await collect(await serve(talk)) == [200, b"one", b"two", b"", b"three"]


async def test_a_refused_stream_is_read_to_its_end(serve: Serve) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 13\r\n\r\n" + json.dumps({"code": 410}).encode())

    client = await serve(talk)
    parts = [part async for part in client.lines("/w", headers={}, stall=5, limit=100)]
    assert [(part.status, part.body) for part in parts if isinstance(part, Response)] == [(410, b'{"code": 410}')]


async def test_a_stream_that_stalls_or_has_no_lines(serve: Serve) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.read()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"a" * 101))
        await reader.read()

    with pytest.raises(HttpFailed, match="TimeoutError"):
        await collect(await serve(stall), stall=0.1)
    with pytest.raises(HttpFailed, match="more than 100 bytes"):
        await collect(await serve(endless))
