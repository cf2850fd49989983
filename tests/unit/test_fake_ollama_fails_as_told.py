"""The faults of the fake Ollama, as a client meets them."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from testbed.fakes.ollama import FakeOllama

ASK = {"model": "chat", "prompt": "x"}


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with FakeOllama(models=["chat", "embed", "other"]) as fake:
        yield fake


@pytest.fixture
async def http(fake: FakeOllama) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=fake.url, timeout=5) as http:
        yield http


async def lines(http: httpx.AsyncClient) -> list[dict[str, object]]:
    return [json.loads(line) for line in (await http.post("/api/generate", json=ASK)).text.splitlines()]


async def collect(http: httpx.AsyncClient, got: list[str], *, timeout: float) -> None:
    """What came before a break counts too, so it goes into the caller's list."""
    async with http.stream("POST", "/api/generate", json=ASK, timeout=timeout) as answer:
        async for line in answer.aiter_lines():
            got.append(line)  # noqa: PERF401


async def test_a_load_that_fails(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.behaviour.load_error = "llama-server process has terminated: out of memory"
    answer = await http.post("/api/generate", json=ASK)
    assert (answer.status_code, answer.json()) == (500, {"error": fake.behaviour.load_error})
    assert fake.loaded == []


async def test_a_full_queue_turns_away_only_what_has_to_load(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    await http.post("/api/generate", json={"model": "chat"})
    fake.behaviour.queue_full = True
    assert (await http.post("/api/generate", json=ASK)).status_code == 200
    answer = await http.post("/api/generate", json={"model": "other"})
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("server busy, please try again.")


async def test_a_stream_that_is_cut(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.behaviour.cut_after_tokens = 3
    got: list[str] = []
    with pytest.raises(httpx.TransportError):
        await collect(http, got, timeout=5)
    assert len(got) == 3


async def test_a_stream_that_ends_without_done(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.behaviour.end_after_tokens = 3
    assert [line["done"] for line in await lines(http)] == [False] * 3


async def test_a_stream_that_ends_with_an_error(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.behaviour.error_after_tokens = 2
    *pieces, last = await lines(http)
    assert len(pieces) == 2
    assert set(last) == {"error"}


@pytest.mark.parametrize("setting", [{"hang_paths": ["/api/generate"]}, {"prompt_seconds": 1e9}])
async def test_no_headers_ever(fake: FakeOllama, http: httpx.AsyncClient, setting: dict[str, object]) -> None:
    fake.behaviour.update(setting)
    with pytest.raises(httpx.ReadTimeout):
        await http.post("/api/generate", json=ASK, timeout=0.3)
    assert (await http.get("/api/version")).status_code == 200


async def test_a_stream_that_hangs(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.behaviour.hang_after_tokens = 2
    got: list[str] = []
    with pytest.raises(httpx.ReadTimeout):
        await collect(http, got, timeout=0.3)
    assert len(got) == 2


async def test_a_lost_gpu_shows_in_ps(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    await http.post("/api/generate", json={"model": "chat"})
    fake.behaviour.vram_ratio = 0
    (entry,) = (await http.get("/api/ps")).json()["models"]
    assert (entry["size"], entry["size_vram"]) == (fake.behaviour.size, 0)


async def test_an_evicted_model_is_loaded_again(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    await http.post("/api/generate", json={"model": "chat", "keep_alive": -1})
    fake.evict("chat")
    assert (await http.get("/api/ps")).json() == {"models": []}
    await http.post("/api/generate", json=ASK)
    assert fake.loads == 2


async def test_a_client_that_leaves_ends_the_load(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.behaviour.load_seconds = 0.6
    with pytest.raises(httpx.ReadTimeout):
        await http.post("/api/generate", json={"model": "chat"}, timeout=0.1)
    fake.behaviour.load_seconds = 0
    # The loader is one for all: had the first load gone on, this one would wait for it.
    async with asyncio.timeout(0.4):
        await http.post("/api/generate", json={"model": "other"})
    assert fake.loaded == ["other:latest"]


async def test_one_slot_serves_one_at_a_time(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.behaviour.update({"tokens": 1, "prompt_seconds": 0.15})
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(http.post("/api/generate", json=ASK) for _ in range(3)))
    assert loop.time() - began >= 0.45


async def test_a_crash_refuses_connections_until_the_next_start(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    await http.post("/api/generate", json={"model": "chat"})
    await fake.crash()
    with pytest.raises(httpx.ConnectError):
        await http.get("/api/version")
    await fake.start()
    assert (await http.get("/api/ps")).json() == {"models": []}


async def test_control_over_http(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    assert (await http.post("/_fake/behaviour", json={"tokens": 1})).json()["tokens"] == 1
    assert len(await lines(http)) == 2
    answer = await http.post("/_fake/behaviour", json={"tokens": 9, "tokns": 1})
    assert (answer.status_code, fake.behaviour.tokens) == (400, 1)
    await http.post("/_fake/evict", json={"model": "chat"})
    assert fake.loaded == []
    assert (await http.get("/_fake/requests")).json() == [{"method": "POST", "path": "/api/generate"}]
    await http.post("/_fake/crash")
    for _ in range(100):
        try:
            await http.get("/api/version")
        except httpx.TransportError:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("still listens")
