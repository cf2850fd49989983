"""What a client may send to the relay, over real sockets."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from ollama_fleet.relay.exchange import Exchange
from ollama_fleet.relay.server import RelayServer

LIMIT = 1024 * 1024
Address = tuple[str, int]


async def echo(exchange: Exchange) -> None:
    body = await exchange.read_body(LIMIT)
    await exchange.answer(200, exchange.head.path.encode() + b":" + body)


@pytest.fixture
async def address() -> AsyncIterator[Address]:
    server = RelayServer(echo)
    port = await server.start("127.0.0.1", 0)
    yield "127.0.0.1", port
    await server.stop(grace=0)


async def talk(address: Address, sent: bytes) -> bytes:
    """Everything the server answers until it closes; nothing when it resets the connection."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


def request(*headers: str, start: str = "POST /a HTTP/1.1", body: bytes = b"") -> bytes:
    return "\r\n".join([start, *headers, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((), b"400"),
        (("Host: a", "Host: b"), b"400"),
        (("Host: a", "Content-Length: 1", "Transfer-Encoding: chunked"), b"400"),
        (("Host: a", "Content-Length: 1", "Content-Length: 2"), b"400"),
        (("Host: a", "Transfer-Encoding: gzip, chunked"), b"501"),
        (("Host: a", "Connection: Upgrade", "Upgrade: websocket"), b"501"),
        (("Host: a", *(f"X-{number}: 1" for number in range(101))), b"431"),
        (("Host: a", "X: " + "y" * 40_000), b"431"),
        (("Host: a", f"Content-Length: {LIMIT + 1}"), b"413"),
    ],
)
async def test_ambiguous_or_oversized_requests_are_refused(
    address: Address, headers: tuple[str, ...], status: bytes
) -> None:
    answer = await talk(address, request(*headers))
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in answer


async def test_a_head_that_never_ends_is_cut_off(address: Address) -> None:
    answer = await talk(address, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000)
    assert answer.startswith(b"HTTP/1.1 431")


async def test_chunk_extensions_are_bounded(address: Address) -> None:
    extension = b"3;x=" + b"y" * 200_000 + b"\r\nabc\r\n0\r\n\r\n"
    answer = await talk(address, request("Host: a", "Transfer-Encoding: chunked", "Connection: close", body=extension))
    assert not answer.startswith(b"HTTP/1.1 200")


async def test_small_chunks_and_trailers_are_read(address: Address) -> None:
    body = b"1\r\na\r\n" * 3000 + b"0\r\nHost: evil\r\n\r\n"
    answer = await talk(address, request("Host: a", "Transfer-Encoding: chunked", "Connection: close", body=body))
    assert answer.endswith(b"/a:" + b"a" * 3000)


async def test_pipelined_requests_of_one_write_are_answered_in_order(address: Address) -> None:
    first = request("Host: a", "Content-Length: 3", body=b"one")
    second = request("Host: a", "Content-Length: 3", "Connection: close", start="POST /b HTTP/1.1", body=b"two")
    answer = await talk(address, first + second)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.index(b"/a:one") < answer.index(b"/b:two")


async def test_a_refused_upload_still_gets_its_answer(address: Address) -> None:
    answer = await talk(address, request("Host: a", f"Content-Length: {LIMIT * 2}", body=b"x" * 300_000))
    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_slow_request_is_given_up() -> None:
    server = RelayServer(echo, idle_seconds=0.05)
    port = await server.start("127.0.0.1", 0)
    try:
        assert await talk(("127.0.0.1", port), b"POST / HTTP/1.1\r\nHost:") == b""
    finally:
        await server.stop(grace=0)


async def test_a_slow_body_is_given_up_also_behind_another_request() -> None:
    server = RelayServer(echo, idle_seconds=0.2)
    port = await server.start("127.0.0.1", 0)
    first = request("Host: a", "Content-Length: 3", body=b"one")
    slow = request("Host: a", "Content-Length: 1000", start="POST /b HTTP/1.1", body=b"x")
    try:
        answer = await talk(("127.0.0.1", port), first + slow)
        assert answer.count(b"HTTP/1.1") == answer.count(b"/a:one")
    finally:
        await server.stop(grace=0)


async def test_clients_of_http_1_0_get_no_chunks() -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.start(200, (), length=None)
        await exchange.write(b"hello")
        await exchange.end()

    server = RelayServer(stream)
    port = await server.start("127.0.0.1", 0)
    try:
        answer = await talk(("127.0.0.1", port), request("Host: a", "Connection: keep-alive", start="GET / HTTP/1.0"))
        assert answer == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello"
    finally:
        await server.stop(grace=0)


async def test_a_client_that_reads_nothing_is_given_up_and_memory_stays_bounded() -> None:
    written = 0
    lost = asyncio.Event()

    async def flood(exchange: Exchange) -> None:
        nonlocal written
        await exchange.start(200, (), length=None)
        try:
            while True:
                await exchange.write(b"x" * 65536)
                written += 65536
        finally:
            lost.set()

    server = RelayServer(flood, stall_seconds=0.1)
    port = await server.start("127.0.0.1", 0)
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(request("Host: a", start="GET / HTTP/1.1"))
            await lost.wait()
            writer.close()
    finally:
        await server.stop(grace=0)
    assert written < 32 * 2**20
    del reader
