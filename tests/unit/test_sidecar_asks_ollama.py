"""What the sidecar makes of answers that its Ollama gives now and then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ollama_fleet.relay.upstream import Upstream, UpstreamFailed
from ollama_fleet.sidecar.ollama import Ollama

PANIC = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
"""As gin answers for a handler that panicked."""
NOTHING = b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"models":[]}'


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[Ollama, list[bytes]]]:
    """An Ollama that gives these answers in turn, and the requests that came."""
    left, asked = list(answers), list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Ollama(Upstream("127.0.0.1", server.sockets[0].getsockname()[1])), asked


async def test_a_list_that_broke_down_over_a_model_that_goes_is_asked_for_again() -> None:
    async with answering(PANIC, NOTHING) as (ollama, asked):
        assert await ollama.resident() == ()
    assert asked == [b"GET /api/ps HTTP/1.1"] * 2


async def test_a_list_that_breaks_down_again_is_a_failure() -> None:
    async with answering(PANIC, PANIC) as (ollama, asked):
        with pytest.raises(UpstreamFailed, match="/api/ps: 500 without a word"):
            await ollama.resident()
    assert len(asked) == 2
