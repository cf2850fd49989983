"""Answers of pods, which are other people's territory."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from ollama_fleet.api.state import SidecarState
from ollama_fleet.controllers import podservers
from ollama_fleet.controllers.podservers import PodServers

STATE = SidecarState(sequence=1, config_hash="x", ready=True)


class Padded(httpx.AsyncByteStream):
    """A valid state behind so many KiB of white space, and how many of them were read."""

    def __init__(self, kibibytes: int) -> None:
        self.left = kibibytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.left:
            self.left -= 1
            yield b" " * 1024
        yield STATE.model_dump_json(by_alias=True).encode()


@pytest.mark.parametrize(("kibibytes", "answer"), [(0, STATE), (255, STATE), (256, None), (10_000, None)])
async def test_an_answer_is_read_up_to_256_kibibytes(kibibytes: int, answer: SidecarState | None) -> None:
    body = Padded(kibibytes)
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=body)))
    servers = PodServers(client)
    assert await servers.state("10.0.0.1") == answer
    assert body.left == max(0, kibibytes - 257)
    await servers.close()


async def test_one_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podservers, "_TIMEOUT_SECONDS", 0.01)

    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    servers = PodServers(httpx.AsyncClient(transport=httpx.MockTransport(never)))
    async with asyncio.timeout(5):
        assert await servers.state("10.0.0.1") is None
    await servers.close()
